// Package prefetch brings in the rest of an image once its first layer is
// asked for. It knows which blobs belong together and what came of bringing
// them; it knows neither HTTP nor registries, and reads no manifest.
package prefetch

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/metrics"
)

// wasteAfter is how long a blob that was brought in may wait for somebody to
// ask for it; then its bytes count as waste.
const wasteAfter = 10 * time.Minute

// What is remembered and what may wait, each some thousand images' worth.
const (
	imagesKept = 1024
	blobsKept  = 65_536
	queueLimit = 4096
)

// Store brings blobs in.
type Store interface {
	// Fetch brings in a blob that nobody has asked for and returns its length
	// in bytes, or -1 when somebody asked in the meantime or before.
	Fetch(ctx context.Context, want cache.Want) (brought int64, err error)
}

// Options is what a Prefetcher needs; every field is required.
type Options struct {
	Store   Store
	Workers int // blobs that are brought in at a time
	Now     func() time.Time
	Metrics *metrics.Prefetch
	Log     *slog.Logger
}

// Prefetcher follows what clients ask for. Its methods may be called at any
// time by anyone. A nil one does nothing.
type Prefetcher struct {
	Options
	queue chan job

	mu      sync.Mutex
	images  *lru.Cache[string, *image] // by repository and manifest
	byBlob  *lru.Cache[string, *image] // by repository and blob
	brought map[digest.Digest]*blob    // on their way, or waiting to be asked for
}

// image is the blobs of one manifest.
type image struct {
	wants []cache.Want
	begun bool // since its manifest was last asked for
	given bool // up, because a blob of it could not be had
}

// blob is one that was brought in or is being so.
type blob struct {
	size  int64     // bytes, once it is there
	until time.Time // when it becomes waste; zero while it is on its way
}

type job struct {
	image *image
	want  cache.Want
}

// New returns a Prefetcher; Run sets it to work.
func New(o Options) *Prefetcher {
	images, err := lru.New[string, *image](imagesKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	byBlob, err := lru.New[string, *image](blobsKept)
	if err != nil {
		panic(err)
	}
	return &Prefetcher{
		Options: o, queue: make(chan job, queueLimit),
		images: images, byBlob: byBlob, brought: make(map[digest.Digest]*blob),
	}
}

// Run brings in what is queued until ctx ends.
func (p *Prefetcher) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for range p.Workers {
		all.Go(func() { p.work(ctx) })
	}
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

// Manifest notes that the manifest d of a repository was handed to a client.
// wants returns its layers and its other blobs, and is called only when they are
// not known yet.
func (p *Prefetcher) Manifest(repository string, d digest.Digest, wants func() (layers, others []cache.Want)) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := repository + "@" + d.String()
	if known, ok := p.images.Get(key); ok {
		known.begun, known.given = false, false
		return
	}
	layers, others := wants()
	one := &image{wants: slices.Concat(layers, others)}
	p.images.Add(key, one)
	for _, w := range layers {
		p.byBlob.Add(repository+"@"+w.Digest.String(), one)
	}
}

// Blob notes that a client asks for the blob d of a repository. The first layer
// of an image has the other blobs brought in, as far as there is room in the
// queue. A config does not: containerd 2 fetches the configs of all platforms of
// an image, and the layers of one.
func (p *Prefetcher) Blob(repository string, d digest.Digest) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.brought, d)
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

func (p *Prefetcher) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-p.queue:
			p.bring(ctx, j)
		}
	}
}

// bring has one blob brought in. After a failure the image's other blobs are
// left to those who ask for them.
func (p *Prefetcher) bring(ctx context.Context, j job) {
	p.mu.Lock()
	if j.image.given || p.brought[j.want.Digest] != nil {
		p.mu.Unlock()
		return
	}
	one := new(blob)
	p.brought[j.want.Digest] = one // before it is there, so that who asks is not missed
	p.mu.Unlock()

	brought, err := p.Store.Fetch(ctx, j.want)

	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		j.image.given = true
		p.Log.Debug("an image is not prefetched further", "digest", j.want.Digest, "err", err)
	}
	if brought >= 0 {
		p.Metrics.Brought(brought)
	}
	switch {
	case p.brought[j.want.Digest] != one: // somebody has asked
	case brought >= 0:
		one.size, one.until = brought, p.Now().Add(wasteAfter)
	default:
		delete(p.brought, j.want.Digest)
	}
}

// sweep counts what nobody has asked for in time.
func (p *Prefetcher) sweep() {
	now := p.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for d, one := range p.brought {
		if !one.until.IsZero() && !now.Before(one.until) {
			p.Metrics.Wasted(one.size)
			delete(p.brought, d)
		}
	}
}
