// Package prefetch fetches the rest of an image once its first layer is
// requested. It knows which blobs belong together and whether they could be
// fetched; it knows neither HTTP nor upstreams, and reads no manifest.
package prefetch

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/memory"
)

// wasteAfter is how long after it was fetched a blob that no client has requested
// counts as wasted.
const wasteAfter = 10 * time.Minute

// Bounds of the memory and of the queue: some thousand images each.
const (
	imagesKept = 1024
	blobsKept  = 65_536
	queueLimit = 4096
)

// The bounds of what is fetched at a time, by the bytes that it stands for: small
// blobs take round trips, and hardly any of the line.
const (
	large    = 8 << 20   // bytes; what is larger, or of unknown size, stands for as many
	smallest = 512 << 10 // bytes that a blob stands for at least
)

// Store fetches blobs.
type Store interface {
	// Fetch fetches a blob that no client has requested and returns its length in
	// bytes, or -1 when it is held, or a client requested it in the meantime.
	Fetch(ctx context.Context, want cache.Want) (fetched int64, err error)
}

// Options is what a Prefetcher needs; every field is required.
type Options struct {
	Store   Store
	AtATime int // blobs of 8 MiB and more, over one connection each; more of those that are smaller, 16 at most in place of one
	Now     func() time.Time
	Metrics *metrics.Prefetch
	Log     *slog.Logger
}

// Prefetcher follows what clients request. Its methods may be called at any time
// from any goroutine. A nil one does nothing.
type Prefetcher struct {
	Options
	queue chan job

	mu      sync.Mutex
	images  *memory.Memory[string, *image] // by repository and manifest
	byBlob  *memory.Memory[string, *image] // by repository and blob
	fetched map[digest.Digest]*blob        // being fetched, or fetched and not requested yet
}

// image is the blobs of one manifest.
type image struct {
	wants  []cache.Want
	begun  bool // a layer was requested since the manifest last was
	failed bool // a blob of it could not be fetched since then
}

// blob is one that was fetched or is being fetched.
type blob struct {
	size  int64     // bytes, once it is held
	until time.Time // when it counts as wasted; zero while it is being fetched
}

type job struct {
	image *image
	want  cache.Want
}

// New returns a Prefetcher. Nothing is fetched before Run.
func New(o Options) *Prefetcher {
	return &Prefetcher{
		Options: o, queue: make(chan job, queueLimit), fetched: make(map[digest.Digest]*blob),
		images: memory.New[string, *image](imagesKept, nil), byBlob: memory.New[string, *image](blobsKept, nil),
	}
}

// Run fetches what is queued until ctx ends.
func (p *Prefetcher) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { p.work(ctx) })
	tick := time.NewTicker(wasteAfter / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.sweep()
		}
	}
}

// Manifest notes that a client was given the manifest d of a repository. wants
// returns its layers and its other blobs, and is called only when they are not
// known yet.
func (p *Prefetcher) Manifest(repository string, d digest.Digest, wants func() (layers, others []cache.Want)) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := repository + "@" + d.String()
	if known, ok := p.images.Get(key); ok {
		known.begun, known.failed = false, false
		return
	}
	layers, others := wants()
	one := &image{wants: slices.Concat(layers, others)}
	p.images.Keep(key, one)
	for _, w := range layers {
		p.byBlob.Keep(repository+"@"+w.Digest.String(), one)
	}
}

// Blob notes that a client requests the blob d of a repository. At the first layer
// of an image the other blobs are queued, as many as the queue has room for. At a
// config they are not: containerd 2 fetches the configs of all platforms of
// an image, and the layers of one.
func (p *Prefetcher) Blob(repository string, d digest.Digest) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.fetched, d)
	one, ok := p.byBlob.Get(repository + "@" + d.String())
	if !ok || one.begun {
		return
	}
	one.begun = true
	for _, w := range one.wants {
		if w.Digest == d {
			continue
		}
		select {
		case p.queue <- job{one, w}:
		default:
			return
		}
	}
}

// work fetches what is queued, in order, as many blobs at a time as there may be.
func (p *Prefetcher) work(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	places := semaphore.NewWeighted(int64(p.AtATime) * large)
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-p.queue:
			takes := int64(large)
			if j.want.Size >= 0 {
				takes = min(max(j.want.Size, smallest), large)
			}
			if places.Acquire(ctx, takes) != nil {
				return
			}
			all.Go(func() {
				defer places.Release(takes)
				p.fetch(ctx, j)
			})
		}
	}
}

// fetch fetches one blob. After a failure the image's other blobs are left to
// the clients that request them.
func (p *Prefetcher) fetch(ctx context.Context, j job) {
	p.mu.Lock()
	if j.image.failed || p.fetched[j.want.Digest] != nil {
		p.mu.Unlock()
		return
	}
	one := new(blob)
	p.fetched[j.want.Digest] = one // before it is fetched, so that Blob meets it
	p.mu.Unlock()

	size, err := p.Store.Fetch(ctx, j.want)

	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		j.image.failed = true
		p.Log.Debug("a blob could not be prefetched; the rest of its image is not prefetched either", "digest", j.want.Digest, "err", err)
	}
	if size >= 0 {
		p.Metrics.Brought(size)
	}
	switch {
	case p.fetched[j.want.Digest] != one: // a client has requested it
	case size >= 0:
		one.size, one.until = size, p.Now().Add(wasteAfter)
	default:
		delete(p.fetched, j.want.Digest)
	}
}

// sweep counts the blobs that no client has requested in time.
func (p *Prefetcher) sweep() {
	now := p.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for d, one := range p.fetched {
		if !one.until.IsZero() && !now.Before(one.until) {
			p.Metrics.Wasted(one.size)
			delete(p.fetched, d)
		}
	}
}
