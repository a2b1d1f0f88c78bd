// Package tier is the S3 store behind the boxes: a bucket that fills ask before a
// registry, and that is given what came from one. It knows digests and S3, and neither
// registries nor who asks. It believes nothing that the bucket says about bytes, waits
// for it for moments only, and does not ask it while it fails.
//
// Blobs are under blobs/<algorithm>/<hex>, as they are. Only public ones are written.
// Nothing is deleted: that is for the bucket's lifecycle.
//
// Files: tier.go (the whole), client.go (the S3 client), read.go (a blob of the bucket),
// write.go (a blob for the bucket), queue.go (those that wait to be written), missing.go
// (those that are held and not in the bucket), circuit.go
// (whether the bucket is asked), check.go (whether it answers), watch.go (a server that is
// silent), failure.go (what went wrong, in words), status.go.
package tier

import (
	"context"
	"crypto/x509"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/logging"
	"hubcap/proxy/memory"
	"hubcap/proxy/upstream/network"
)

// Options is what a Tier needs; every field is required, except the keys.
type Options struct {
	URL       *url.URL // of the bucket, path style: https://s3.site:9000/bucket
	Region    string
	AccessKey string // with SecretKey; both empty for what the AWS SDK finds
	SecretKey string
	ReadOnly  bool                                  // nothing is written
	Proxy     func(*http.Request) (*url.URL, error) // chooses the outgoing proxy
	RootCAs   func() *x509.CertPool                 // the trusted authorities; the pool is nil for the system's
	UserAgent string
	Now       func() time.Time
	Metrics   *metrics.Tier
	Log       *slog.Logger
}

// Store is where the blobs to be written are.
type Store interface {
	// OpenPublic opens a stored public blob whose bytes are right. The caller closes it.
	OpenPublic(ctx context.Context, d digest.Digest) (*cache.File, error)
	// OwnBlobs iterates over the blobs that the bucket is to have of this box, with their
	// last use.
	OwnBlobs(ctx context.Context) iter.Seq2[digest.Digest, time.Time]
}

// bounds are the time-outs, and the sizes of what is written.
type bounds struct {
	header       time.Duration // until an answer begins, connecting included
	stall        time.Duration // between two reads, or writes, of a body
	stored       time.Duration // until the answer to a body that was sent
	tryAgain     time.Duration // between two looks at a bucket that fails
	wrong        time.Duration // for which the bucket is not asked after wrong bytes
	pause        time.Duration // after a write that failed; twice as long after each further one
	compare      time.Duration // between two looks at what the bucket lacks
	compareAgain time.Duration // the same after one that failed
	single       int64         // bytes of the largest blob that is written in one request
	part         int64         // bytes of a part of a larger one
	slowest      int64         // bytes a second of a transfer that is waited for
}

// The header's time is what a pull waits for a silent bucket, once.
func defaultBounds() bounds {
	return bounds{
		header: 2 * time.Second, stall: 5 * time.Second, stored: time.Minute, tryAgain: 10 * time.Second,
		wrong: time.Minute, pause: time.Second, compare: 24 * time.Hour, compareAgain: time.Hour, single: 64 << 20, part: 16 << 20, slowest: 32 << 10,
	}
}

// suspectsKept and suspectFor bound what is remembered of doubtful objects.
const (
	suspectsKept = 1000
	suspectFor   = time.Hour
)

// doubt is what is doubted of an object.
type doubt int

const (
	none     doubt = iota
	ofLength       // it may have another length than the blob: it is looked at before it is left as it is
	ofBytes        // it is something else: it is not read, and is overwritten
)

// doubts returns what is doubted of the object of d.
func (t *Tier) doubts(d digest.Digest) doubt {
	what, _ := t.suspects.Get(d)
	return what
}

// Tier is the bucket. Its methods are safe for concurrent use.
type Tier struct {
	o        Options
	bounds   bounds
	bucket   string
	client   *s3.Client
	send     *network.Transport
	circuit  *circuit
	suspects *memory.Memory[digest.Digest, doubt]
	queue    chan digest.Digest
	older    chan digest.Digest // what one writer takes while the queue is empty
	missing  missing
	headOnly atomic.Bool // the server does not know If-None-Match: objects are looked for before they are written
	writes   writes
	noted    struct{ opened, wrong, dropped logging.Throttle }
}

// New returns a Tier. It connects to nothing yet; Run does.
func New(o Options) *Tier {
	t := &Tier{
		o: o, bounds: defaultBounds(), bucket: strings.Trim(o.URL.Path, "/"), send: network.NewTransport(o.RootCAs, o.newTransport),
		suspects: memory.New[digest.Digest, doubt](suspectsKept, o.Now), queue: make(chan digest.Digest, queued), older: make(chan digest.Digest),
	}
	t.client = newClient(o, t.send)
	t.circuit = newCircuit(o.Now)
	return t
}

// Run looks whether the bucket answers, again while it fails, and writes what is queued
// and what it lacks from store, until ctx ends.
func (t *Tier) Run(ctx context.Context, store Store) {
	var all sync.WaitGroup
	all.Go(func() { t.look(ctx) })
	if !t.o.ReadOnly {
		for range writers - 1 {
			all.Go(func() { t.writeQueued(ctx, store, nil) })
		}
		all.Go(func() { t.writeQueued(ctx, store, t.older) })
		all.Go(func() { t.writeMissing(ctx, store) })
	}
	all.Wait()
	t.send.CloseIdleConnections()
}

// key is the key of a blob's object.
func key(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// failed notes that a request of any kind failed, and returns the failure. One of the
// asker's own, who has left, is none.
func (t *Tier) failed(asker context.Context, err error) error {
	if asker.Err() != nil {
		return context.Cause(asker)
	}
	f := explain(err)
	if f.silent {
		t.send.CloseIdleConnections() // they may be as dead as this one
	}
	if t.circuit.failed(f, f.whole) && t.noted.opened.Allow(t.o.Now()) {
		t.o.Log.Warn("the bucket of the S3 tier is not asked for a while; pulls go on", "bucket", t.o.URL.Redacted(), "err", f)
	}
	return f
}
