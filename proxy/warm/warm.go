// Package warm fetches what no client asked for: images whole, lists of them, some
// of them regularly. It asks as an anonymous client of a mirror port would, so that
// visibility, pull limits and circuits hold for it too, and takes its turn behind
// the clients.
//
// Files: warm.go (one image), tree.go (what an image consists of), platform.go,
// list.go (several images in a job), schedule.go (regularly), verify.go (files
// hashed now).
package warm

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/proxy/freshness"
	"hubcap/proxy/jobs"
	"hubcap/proxy/pull"
	"hubcap/proxy/reference"
	"hubcap/proxy/upstream"
)

// Options is what a Warmer needs; every field is required.
type Options struct {
	Pull      *pull.Puller
	Upstreams *upstream.Set
	Cache     *cache.Cache
	Jobs      *jobs.List
	Records   Records
	// Fetched is called with each image that is held whole now: a tag, or a digest
	// where none was asked for. Nil for nobody.
	Fetched func(reference.Reference)
	AtATime int // blobs that are fetched at a time, for all images together
	Now     func() time.Time
	Log     *slog.Logger
}

// Warmer fetches images. Its methods may be called at any time from any goroutine.
type Warmer struct {
	o         Options
	slots     chan struct{}
	schedules schedules
}

// New reads the schedules and returns a Warmer; Run runs them.
func New(o Options) (*Warmer, error) {
	w := &Warmer{o: o, slots: make(chan struct{}, o.AtATime)}
	return w, w.schedules.load(o.Records)
}

// Request says how an image is fetched. The zero value fetches the platforms that
// are in use here.
type Request struct {
	// Platforms are os/architecture[/variant], or AllPlatforms. Without any they
	// are those of which a layer is held, of this digest or else of another
	// one that the tag names or named; else linux on the box's own architecture. An image that is
	// no index is fetched whatever it is for.
	Platforms []string
	// Attestations, with AllPlatforms, fetches also what an index says about its
	// images: every manifest that it names.
	Attestations bool
	// KeepPulls is the share of the registry's pull limit, from 0 to 1, that is
	// left to clients: what would take more is pull.ErrPullsKept.
	KeepPulls float64
	// ManifestsOnly fetches no blobs: what the image consists of is known then.
	ManifestsOnly bool
	// DryRun fetches nothing: Result.Fetched and Result.Pulls are what would be.
	// A tag is still resolved, which costs no pull as long as a tag that is held
	// has not moved.
	DryRun bool
}

// Result is an image that was fetched, or as much of it as was before an error.
type Result struct {
	Ref       string        `json:"ref"`
	Digest    digest.Digest `json:"digest,omitempty"`    // empty while it is not known
	Platforms []string      `json:"platforms,omitempty"` // those of an index that were chosen
	Absent    []string      `json:"absent,omitempty"`    // wanted, and not in the index
	Objects   int           `json:"objects"`             // manifests and blobs of the image
	Missing   int           `json:"missing"`             // of these, fetched by this call; in a dry run, not held
	Fetched   int64         `json:"fetched"`             // bytes of the missing ones
	Held      int64         `json:"held"`                // bytes of the others
	Pulls     int           `json:"pulls"`               // manifests fetched: registries with a pull limit count these
	Unknown   bool          `json:"unknown,omitempty"`   // a dry run cannot tell what manifests name that are not held
	Skipped   []Skipped     `json:"skipped,omitempty"`
}

// Skipped is a part of an image that was not fetched, which is no error.
type Skipped struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes, as the manifest says; negative for unknown
	Why    string        `json:"why"`
}

// Progress is how far the fetching of an image is. Totals grow while its manifests
// are fetched.
type Progress struct {
	Objects, ObjectsTotal int
	Bytes, BytesTotal     int64
	// Running are the blobs that are being fetched, none of whose bytes are in
	// Bytes yet; cache.Fills knows how many there are.
	Running []digest.Digest
}

// Errors beside those of the registries.
var (
	ErrUnknownRegistry = errors.New("this registry is not configured")
	ErrNoImage         = errors.New("this is neither an image nor an index nor an artifact")
	ErrNoPlatform      = errors.New("the image is not made for the platform")
)

// Error says which part of which image could not be fetched.
type Error struct {
	Ref    reference.Reference
	Part   string        // manifest, config or layer
	Digest digest.Digest // empty for the manifest that Ref names
	Err    error
}

func (e *Error) Error() string {
	text := e.Ref.String() + ": " + e.Part
	if e.Digest != "" {
		text += " " + e.Digest.String()
	}
	if freshness.NotFound(e.Err) {
		return text + " unknown at " + e.Ref.Registry
	}
	return text + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Image fetches what is missing of an image: what the reference names now, as a
// client would be told, the manifests of the platforms, their configs and layers.
// It returns when all of it is on disk. progress may be nil; it is called by one
// goroutine at a time and must not block. The error is an *Error where a part could
// not be fetched, ctx's cause, or what names the wrong reference or platform. What
// is being fetched when ctx ends goes on to its end.
func (w *Warmer) Image(ctx context.Context, ref reference.Reference, req Request, progress func(Progress)) (Result, error) {
	f, err := w.fetch(ctx, ref, req, progress)
	return f.result, err
}

// Objects is Image, and returns also the manifests and the blobs that the image consists
// of. Those that no client needs may be missing.
func (w *Warmer) Objects(ctx context.Context, ref reference.Reference, req Request) (got Result, manifests []digest.Digest, blobs []content.Part, err error) {
	f, err := w.fetch(ctx, ref, req, nil)
	return f.result, f.manifests, f.parts, err
}

func (w *Warmer) fetch(ctx context.Context, ref reference.Reference, req Request, progress func(Progress)) (*fetch, error) {
	f := &fetch{w: w, ref: ref, req: req, report: progress, seen: make(map[digest.Digest]bool), result: Result{Ref: ref.String()}}
	var err error
	if f.repository, err = w.Repository(ref); err != nil {
		return f, err
	}
	if f.wanted, f.all, err = parsePlatforms(req.Platforms); err != nil {
		return f, err
	}
	if err = f.tree(ctx); err == nil && !req.ManifestsOnly {
		err = f.blobs(ctx)
	}
	if err == nil && !req.DryRun {
		err = f.settle()
	}
	if err == nil && !req.DryRun && !req.ManifestsOnly && w.o.Fetched != nil {
		if ref.Registry = f.repository.Upstream.Host; ref.Tag != "" {
			ref.Digest = ""
		}
		w.o.Fetched(ref)
	}
	return f, err
}

// fetch is one call of Image.
type fetch struct {
	w          *Warmer
	ref        reference.Reference
	req        Request
	repository pull.Repository
	wanted     []string
	all        bool // every platform
	report     func(Progress)

	seen      map[digest.Digest]bool // in manifests or parts
	manifests []digest.Digest
	parts     []content.Part // configs and layers

	mu       sync.Mutex
	result   Result
	progress Progress
}

// update changes result and progress, and reports them.
func (f *fetch) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	if f.report != nil {
		p := f.progress
		p.Running = slices.Clone(p.Running)
		f.report(p)
	}
}

// partsAtATime is how many parts of one image are looked at or fetched at a time.
const partsAtATime = 8

// blobs fetches the parts that are missing.
func (f *fetch) blobs(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(partsAtATime)
	for _, p := range f.parts {
		all.Go(func() error { return f.blob(ctx, p) })
	}
	return all.Wait()
}

// blob fetches a config or layer that is missing, once it has a slot.
func (f *fetch) blob(ctx context.Context, p content.Part) error {
	held := f.repository.Has(p.Digest)
	if f.req.DryRun {
		f.update(func() { f.count(p.Size, held) })
		return nil
	}
	if !held {
		select {
		case f.w.slots <- struct{}{}:
			defer func() { <-f.w.slots }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	f.update(func() { f.progress.Running = append(f.progress.Running, p.Digest) })
	fetched, err := f.repository.Obtain(ctx, p.Digest, p.Size)
	f.update(func() {
		f.progress.Running = slices.DeleteFunc(f.progress.Running, func(d digest.Digest) bool { return d == p.Digest })
		switch {
		case err == nil && fetched > 0:
			f.count(fetched, false)
		case err == nil:
			f.count(p.Size, true)
		case !p.Is(content.RoleNeeded) && freshness.NotFound(err): // no client asks for it
			f.skip(p, "its registry does not have it")
			err = nil
		}
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	return &Error{Ref: f.ref, Part: partName(p), Digest: p.Digest, Err: err}
}

func partName(p content.Part) string {
	if p.Is(content.RoleConfig) {
		return "config"
	}
	return "layer"
}

// count counts an object of so many bytes that was held, or was missing. f.mu is
// held.
func (f *fetch) count(size int64, held bool) {
	size = max(size, 0)
	f.progress.Objects++
	f.progress.Bytes += size
	if held {
		f.result.Held += size
		return
	}
	f.result.Missing++
	f.result.Fetched += size
}

// skip notes a part that is not fetched. f.mu is held.
func (f *fetch) skip(p content.Part, why string) {
	f.progress.Objects++
	f.progress.BytesTotal -= max(p.Size, 0)
	f.result.Skipped = append(f.result.Skipped, Skipped{p.Digest, p.Size, why})
}

// settle returns once the manifests are on disk too, and has the image count as used.
func (f *fetch) settle() error {
	for _, d := range f.manifests {
		if err := f.w.o.Cache.StoreManifest(d); err != nil {
			return &Error{Ref: f.ref, Part: "manifest", Digest: d, Err: err}
		}
	}
	f.w.o.Cache.UseImage(f.result.Digest)
	return nil
}
