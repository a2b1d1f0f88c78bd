package tier

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

// fake is a stand-in for an S3 server, which takes nothing that some servers do not.
type fake struct {
	*testkit.Bucket
	*httptest.Server
	t *testing.T
}

func newFake(t *testing.T) *fake {
	f := &fake{Bucket: testkit.NewBucket(), t: t}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// address is where it listens; empty if it does not.
func (f *fake) address() string {
	if f.Server == nil {
		return ""
	}
	return f.URL
}

// ServeHTTP implements http.Handler.
func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Amz-Trailer") != "" || strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING") {
		f.t.Errorf("%s %s has a trailing checksum", r.Method, r.URL)
	}
	f.Bucket.ServeHTTP(w, r)
}

// put has the bucket hold an object of d.
func (f *fake) put(d digest.Digest, body []byte) { f.Put(key(d), body) }

// object returns the object of d.
func (f *fake) object(d digest.Digest) []byte { return f.Object(key(d)) }

// shelf is a Store of files.
type shelf struct {
	dir string
	mu  sync.Mutex
	all map[digest.Digest]string
	own []digest.Digest // the first was used last
}

// OwnBlobs implements Store.
func (s *shelf) OwnBlobs(context.Context) iter.Seq2[digest.Digest, time.Time] {
	return func(yield func(digest.Digest, time.Time) bool) {
		s.mu.Lock()
		own := slices.Clone(s.own)
		s.mu.Unlock()
		for i, d := range own {
			if !yield(d, time.Unix(int64(1000-i), 0)) {
				return
			}
		}
	}
}

// OpenPublic implements Store.
func (s *shelf) OpenPublic(_ context.Context, d digest.Digest) (*cache.File, error) {
	s.mu.Lock()
	path, held := s.all[d]
	s.mu.Unlock()
	if !held {
		return nil, os.ErrNotExist
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &cache.File{File: f, Size: info.Size()}, nil
}

// rig is a tier in front of a fake.
type rig struct {
	*Tier
	t       *testing.T
	fake    *fake
	store   *shelf
	log     *testkit.Log
	metrics *metrics.Metrics
}

// newRig returns a tier that runs, which waits for a bucket however busy the machine is,
// and tries again soon. change may be nil.
func newRig(t *testing.T, f *fake, change func(o *Options, b *bounds)) *rig {
	t.Helper()
	at, err := url.Parse(f.address() + "/bucket")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, fake: f, store: &shelf{dir: t.TempDir(), all: make(map[digest.Digest]string)}, log: new(testkit.Log), metrics: metrics.New()}
	o := Options{
		URL: at, Region: "us-east-1", AccessKey: "key", SecretKey: "secret",
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, RootCAs: func() *x509.CertPool { return nil },
		UserAgent: "hubcap/test", Now: time.Now, Metrics: r.metrics.Tier, Log: slog.New(slog.NewTextHandler(r.log, nil)),
	}
	b := defaultBounds()
	b.header, b.stall, b.tryAgain, b.pause = testkit.Patience, testkit.Patience, 20*time.Millisecond, time.Millisecond
	if change != nil {
		change(&o, &b)
	}
	r.Tier = New(o)
	r.bounds = b
	return r
}

// run runs the tier until the test ends.
func (r *rig) run() *rig {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx, r.store) })
	r.t.Cleanup(func() { cancel(); running.Wait() })
	return r
}

// blob puts a blob of n bytes on the shelf.
func (r *rig) blob(n int) ([]byte, digest.Digest) {
	r.t.Helper()
	body := bytes.Repeat([]byte{byte(len(r.store.all)), 1, 2, 3}, n/4+1)[:n]
	return body, r.shelve(body)
}

// shelve puts a blob on the shelf.
func (r *rig) shelve(body []byte) digest.Digest {
	r.t.Helper()
	d := digest.FromBytes(body)
	path := r.store.dir + "/" + d.Encoded()
	if err := os.WriteFile(path, body, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.store.all[d] = path
	return d
}

// read reads a span of a blob from the bucket as a fill does.
func (r *rig) read(near cache.Nearer, off, n int64) ([]byte, error) {
	places := near.Places()
	if len(places) == 0 {
		return nil, errNowhere
	}
	stream, err := places[0].Open(r.t.Context(), off, n)
	if err != nil {
		return nil, err
	}
	defer stream.Body.Close()
	return io.ReadAll(stream.Body)
}

var errNowhere = errors.New("the bucket is no place now")

// count returns a counter of the tier.
func (r *rig) count(name, label, value string) int {
	n, _ := r.metrics.Value("hubcap_tier_"+name, label, value)
	return int(n)
}

// eventually waits until done.
func (r *rig) eventually(what string, done func() bool) {
	r.t.Helper()
	testkit.Eventually(r.t, what, done)
}
