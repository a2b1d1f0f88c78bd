package bundle

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const block = 512 // bytes of a tar

// layoutFile is what oci-layout says.
var layoutFile = []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)

// indexOf returns index.json.
func indexOf(entries []ocispec.Descriptor) []byte {
	text, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
	})
	if err != nil {
		panic(err) // strings always can
	}
	return text
}

// header returns the header of a file. The form follows from the size alone.
func header(name string, size int64) *tar.Header {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if size >= 1<<33 { // more than a number of USTAR has place for
		h.Format = tar.FormatPAX
	}
	return h
}

// size returns how many bytes Write writes.
func (p *Plan) size() int64 {
	counted := new(counter)
	w := tar.NewWriter(counted)
	total := int64(0)
	add := func(name string, size int64) {
		if err := w.WriteHeader(header(name, size)); err != nil {
			panic(err) // names and sizes are ours
		}
		total += int64(*counted) + (size+block-1)/block*block
		*counted, w = 0, tar.NewWriter(counted)
	}
	add(ocispec.ImageLayoutFile, int64(len(layoutFile)))
	add(ocispec.ImageIndexFile, int64(len(p.index)))
	for _, files := range [][]file{p.manifests, p.blobs} {
		for _, f := range files {
			add(f.name(), f.size)
		}
	}
	return total + 2*block
}

type counter int64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

// Write writes the bundle to w. wrote, which may be nil, is called with how many
// files are written and what they have in bytes. A blob that is no longer held is
// fetched again. After an error the bundle is unusable.
func (p *Plan) Write(ctx context.Context, w io.Writer, wrote func(objects int, bytes int64)) error {
	t := tar.NewWriter(w)
	if wrote == nil {
		wrote = func(int, int64) {}
	}
	small := func(name string, body []byte) error {
		if err := t.WriteHeader(header(name, int64(len(body)))); err != nil {
			return err
		}
		_, err := t.Write(body)
		return err
	}
	if err := small(ocispec.ImageLayoutFile, layoutFile); err != nil {
		return err
	}
	if err := small(ocispec.ImageIndexFile, p.index); err != nil {
		return err
	}
	bytes := int64(0)
	for i, f := range p.manifests {
		one, held := p.bundler.o.Cache.Manifest(f.digest)
		if !held || int64(len(one.Body)) != f.size {
			return fmt.Errorf("%s: %w", f.digest, ErrNotStable)
		}
		if err := small(f.name(), one.Body); err != nil {
			return err
		}
		bytes += f.size
		wrote(i+1, bytes)
	}
	for i, f := range p.blobs {
		if err := t.WriteHeader(header(f.name(), f.size)); err != nil {
			return err
		}
		if err := f.from.Read(ctx, f.digest, sink{t}); err != nil {
			return fmt.Errorf("%s: %w", f.digest, err)
		}
		bytes += f.size
		wrote(len(p.manifests)+i+1, bytes)
	}
	return t.Close()
}

// sink is a tar as cache.Blob.Send writes to it. A blob that is longer than its header
// says is refused by the tar, and one that is shorter by the next header.
type sink struct{ *tar.Writer }

// FlushError implements cache.Sink. Flush of a tar is for the end of a file.
func (sink) FlushError() error { return nil }
