package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache"
	"hubcap/cache/content"
)

// Intake says how a bundle is taken in.
type Intake struct {
	As      string `query:"as" maxLength:"600" doc:"The name of the one image of the bundle, or the repository of those whose names have no registry"`
	Partial bool   `query:"partial" doc:"Set the tags of images that are not whole, too"`
	Force   bool   `query:"force" doc:"Let images that docker save has packed anew become the tag that they say they are"`
	DryRun  bool   `query:"dry_run" doc:"Read and verify all of it, and keep nothing"`
}

// Imported is what came of a bundle.
type Imported struct {
	DryRun  bool    `json:"dry_run,omitempty"`
	Images  []Image `json:"images"`
	Objects int     `json:"objects"` // manifests and blobs that were brought: stored, and not held before
	Bytes   int64   `json:"bytes"`   // of these
	Held    int     `json:"held"`    // that were held before
	Bad     []Bad   `json:"bad,omitempty"`
}

// Image is an image of a bundle.
type Image struct {
	Name      string        `json:"name"`          // as the bundle has it
	Ref       string        `json:"ref,omitempty"` // here; empty where the name does not say
	Digest    digest.Digest `json:"digest"`
	Platforms []string      `json:"platforms,omitempty"` // of a sparse bundle that hubcap has written
	OK        bool          `json:"ok"`                  // it is whole, and its tag names it
	Set       bool          `json:"set"`                 // its tag names it
	Why       string        `json:"why,omitempty"`       // it is not OK
	Missing   []Missing     `json:"missing,omitempty"`   // at most 20
}

// Missing is a part of an image that is neither in the bundle nor held.
type Missing struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes, as a manifest says; negative where it does not
	Why    string        `json:"why"`
}

// Bad is a file of a bundle that was not taken.
type Bad struct {
	Digest digest.Digest `json:"digest"`
	Why    string        `json:"why"`
}

// maxBad is how many files that were not taken are named.
const maxBad = 100

// intake is one import.
type intake struct {
	b      *Bundler
	cache  *cache.Cache
	order  Intake
	naming naming
	read   func(objects int, bytes int64) // is called after each file

	index   []byte                   // index.json
	save    *saved                   // what only archives of docker save have
	came    map[digest.Digest]string // what the bundle has; why it was not taken, empty if it was
	sizes   map[digest.Digest]int64  // of what was not held before
	bodies  map[digest.Digest][]byte // manifests, up to maxKept bytes together
	kept    int64                    // bytes of bodies
	bytes   int64                    // read
	accepts map[digest.Digest]bool   // what belongs to an image that was taken
	result  Imported
}

// Import reads a bundle to its end. Its files may come in any order. They are stored
// as they come, verified, and shown to no client; once the bundle has ended well,
// each image that is whole becomes one of this box, its tag last. What belongs to no
// such image is removed again. progress, which may be nil, is called with the files
// and bytes that were read. The error is ErrNoBundle, ErrBroken, ErrNames, ErrTooMany
// or ctx's cause; then nothing is kept. Images that were not taken are no error.
func (b *Bundler) Import(ctx context.Context, r io.Reader, o Intake, progress func(objects int, bytes int64)) (Imported, error) {
	if progress == nil {
		progress = func(int, int64) {}
	}
	i := &intake{
		b: b, cache: b.o.Cache, order: o, read: progress, save: newSaved(),
		came: make(map[digest.Digest]string), sizes: make(map[digest.Digest]int64), bodies: make(map[digest.Digest][]byte), accepts: make(map[digest.Digest]bool),
	}
	i.result = Imported{DryRun: o.DryRun, Images: []Image{}}
	defer i.tidy()
	var err error
	if i.naming, err = parseNaming(o.As); err != nil {
		return i.result, err
	}
	if err = i.files(ctx, r); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return i.result, err
	}
	err = i.accept(ctx)
	return i.result, err
}

// files reads all files of a bundle.
func (i *intake) files(ctx context.Context, r io.Reader) error {
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		switch {
		case err == io.EOF:
			return i.ended(n)
		case err != nil && n == 0:
			return fmt.Errorf("%w: %w", ErrNoBundle, err)
		case err != nil:
			return fmt.Errorf("%w: %w", ErrBroken, err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if err := i.file(ctx, h, t); err != nil {
			return err
		}
		i.bytes += h.Size
		i.read(len(i.came), i.bytes)
	}
}

// ended returns why what was read is no bundle.
func (i *intake) ended(files int) error {
	if i.index == nil && i.save.list == nil {
		return fmt.Errorf("%w: it has %d files, and neither index.json nor manifest.json", ErrNoBundle, files)
	}
	return nil
}

// file takes a file of a bundle. What has another name than those of a layout, or
// is no plain file, is skipped.
func (i *intake) file(ctx context.Context, h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if h.Typeflag != tar.TypeReg || sparse(h) {
		return i.save.link(name, h)
	}
	switch name {
	case ocispec.ImageLayoutFile:
		return nil
	case ocispec.ImageIndexFile:
		return document(&i.index, name, h, r)
	case saveList:
		return document(&i.save.list, name, h, r)
	}
	if d, ok := digestOf(name); ok {
		return i.blob(ctx, d, h.Size, r)
	}
	if isSaved(name) {
		return i.saved(ctx, name, h.Size, r)
	}
	return nil
}

// sparse reports whether a file is one of those of which only parts are in the tar:
// a few bytes stand for as many zeros as they like.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// document reads a file that a bundle has once.
func document(into *[]byte, name string, h *tar.Header, r io.Reader) error {
	switch {
	case *into != nil:
		return fmt.Errorf("%w: %s is in it twice", ErrNoBundle, name)
	case h.Size > cache.MaxManifest:
		return fmt.Errorf("%w: %s has %d bytes", ErrTooMany, name, h.Size)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBroken, name, err)
	}
	*into = body
	return nil
}

// digestOf returns the digest that the name of a file of a layout stands for.
func digestOf(name string) (digest.Digest, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] != ocispec.ImageBlobsDir {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])
	return d, d.Validate() == nil
}

// blob takes a file whose name says its digest. One that comes again is skipped, as
// are wrong bytes.
func (i *intake) blob(ctx context.Context, d digest.Digest, size int64, r io.Reader) error {
	if why, again := i.came[d]; again && why == "" {
		return nil
	}
	if len(i.came) >= maxFiles {
		return ErrTooMany
	}
	if size > cache.MaxManifest {
		return i.store(ctx, d, size, r)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBroken, d, err)
	}
	if i.kept+size <= maxKept && d.Algorithm().FromBytes(body) == d {
		if m, err := content.Parse(body); err == nil && m.Kind != content.Other {
			i.bodies[d] = body
			i.kept += size
		}
	}
	return i.store(ctx, d, size, bytes.NewReader(body))
}

// store stores a file, as restricted content of nobody. The error is one of the
// bundle; what this box cannot store is noted.
func (i *intake) store(ctx context.Context, d digest.Digest, size int64, r io.Reader) error {
	_, before := i.cache.Size(d)
	in := &input{r: r, size: size}
	var err error
	if !i.order.DryRun {
		if !before {
			i.sizes[d] = size // tidy looks for it, however this ends
		}
		_, err = i.cache.Obtain(ctx, cache.Want{Digest: d, Source: in, Size: size, Restricted: true, Local: true})
	}
	taken, broken := in.close()
	switch {
	case broken != nil:
		return fmt.Errorf("%w: %s: %w", ErrBroken, d, broken)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, cache.ErrWrongContent):
		return i.bad(d, wrongContent)
	case err != nil && !errors.Is(err, cache.ErrRestricted): // no room, too large, a disk that fails
		return i.bad(d, err.Error())
	}
	if !taken { // it is held, or a dry run
		v := d.Verifier()
		if _, err := io.Copy(v, r); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrBroken, d, err)
		}
		if !v.Verified() {
			return i.bad(d, wrongContent)
		}
	}
	i.came[d] = ""
	if before {
		i.result.Held++
	} else {
		i.sizes[d] = size
	}
	return nil
}

const wrongContent = "its content is damaged: it does not hash to its digest"

func (i *intake) bad(d digest.Digest, why string) error {
	i.came[d] = why
	if len(i.result.Bad) < maxBad {
		i.result.Bad = append(i.result.Bad, Bad{d, why})
	}
	return nil
}

// tidy removes what was brought and belongs to no image that was taken, unless
// clients may see it by now.
func (i *intake) tidy() {
	for d := range i.sizes {
		if i.order.DryRun || i.accepts[d] || i.cache.Stored(cache.Want{Digest: d, Size: -1}) {
			continue
		}
		i.cache.Purge(d, false)
	}
}

// input is a file of a bundle as a fill reads it: once, from its start.
type input struct {
	size int64

	mu    sync.Mutex
	r     io.Reader
	taken bool  // a fill has opened it
	over  bool  // nothing reads any more
	err   error // of r
}

// spent is the error of an input that cannot be read, or not any more.
type spent struct{ error }

// spent is a cache.SourceError.
func (spent) Temporary() bool     { return false }
func (spent) Wait() time.Duration { return 0 }
func (spent) Unsatisfiable() bool { return false }

// Unwrap returns why it cannot be read.
func (s spent) Unwrap() error { return s.error }

var errSpent = errors.New("a file of a bundle is read once")

// Open implements cache.Source.
func (in *input) Open(context.Context, int64, int64) (*cache.Stream, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.taken || in.over {
		return nil, spent{errSpent}
	}
	in.taken = true
	return &cache.Stream{Body: in, End: in.size, Size: in.size}, nil
}

// Read implements io.Reader.
func (in *input) Read(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.over {
		return 0, spent{errSpent}
	}
	n, err := in.r.Read(p)
	if err != nil && err != io.EOF {
		in.err = err
		err = spent{err}
	}
	return n, err
}

// Close implements io.Closer, for the fill.
func (in *input) Close() error { return nil }

// close ends the reading, and reports whether a fill has read, and which error it met.
func (in *input) close() (taken bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.over = true
	return in.taken, in.err
}
