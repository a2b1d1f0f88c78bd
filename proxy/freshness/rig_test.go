package freshness

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/cache/index"
	"hubcap/e2e/testkit"
	"hubcap/metrics"
	"hubcap/proxy/upstream"
)

// hub is a registry in memory. It records what it is asked.
type hub struct {
	credentials bool
	// before is called at each request, with no lock held; its error is the answer.
	before func(method, repository, reference string) error

	mu        sync.Mutex
	tags      map[string]string            // "repository:tag" to the manifest's body
	listed    []string                     // the answer to Tags
	referrers map[digest.Digest][]string   // the answer to Referrers
	asked     []string                     // "HEAD repository reference" …
	edit      func(d *upstream.Descriptor) // changes the answer to a HEAD
}

func (h *hub) push(repository, tag, body string) digest.Digest {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tags[repository+":"+tag] = body
	return digest.FromString(body)
}

func (h *hub) ask(ctx context.Context, method, repository, reference string) (upstream.Manifest, error) {
	h.mu.Lock()
	h.asked = append(h.asked, method+" "+repository+" "+reference)
	before := h.before
	h.mu.Unlock()
	if before != nil {
		if err := before(method, repository, reference); err != nil {
			return upstream.Manifest{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return upstream.Manifest{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	body, ok := h.tags[repository+":"+reference]
	for _, one := range h.tags {
		if digest.FromString(one).String() == reference {
			body, ok = one, true
		}
	}
	if !ok {
		return upstream.Manifest{}, failure(upstream.NotFound, 404)
	}
	return upstream.Manifest{Body: []byte(body), Descriptor: upstream.Descriptor{
		Digest: digest.FromString(body), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: int64(len(body)),
	}}, nil
}

func (h *hub) HeadManifest(ctx context.Context, repository, reference string) (upstream.Descriptor, error) {
	m, err := h.ask(ctx, "HEAD", repository, reference)
	if err == nil && h.edit != nil {
		h.edit(&m.Descriptor)
	}
	return m.Descriptor, err
}

func (h *hub) GetManifest(ctx context.Context, repository, reference string) (upstream.Manifest, error) {
	return h.ask(ctx, "GET", repository, reference)
}

func (h *hub) Tags(ctx context.Context, repository string) ([]string, error) {
	_, err := h.ask(ctx, "TAGS", repository, "")
	if isGone(err) && h.listed != nil {
		return h.listed, nil
	}
	return nil, err
}

func (h *hub) Referrers(ctx context.Context, repository string, subject digest.Digest) ([]json.RawMessage, error) {
	if _, err := h.ask(ctx, "REFERRERS", repository, ""); !isGone(err) {
		return nil, err
	}
	found := []json.RawMessage{}
	for _, one := range h.referrers[subject] {
		found = append(found, json.RawMessage(one))
	}
	return found, nil
}

func (h *hub) Credentials() bool { return h.credentials }

// fail has every request answered with err; nil ends that.
func (h *hub) fail(err error) {
	h.hook(func(string, string, string) error { return err })
}

func (h *hub) hook(before func(method, repository, reference string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = before
}

// wasAsked compares the requests since the last call with want.
func (h *hub) wasAsked(t *testing.T, want ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.asked, want) {
		t.Errorf("the upstream was asked %q, want %q", h.asked, want)
	}
	h.asked = nil
}

func failure(kind upstream.Kind, status int) *upstream.Error {
	return &upstream.Error{Kind: kind, Status: status, Upstream: "docker.io"}
}

// The failures that most tests use.
var (
	down    = failure(upstream.Unreachable, 0)
	missing = failure(upstream.NotFound, 404)
	denied  = failure(upstream.Denied, 401)
)

// store is a Store in memory. A stored manifest is on disk at once.
type store struct {
	mu       sync.Mutex
	manifest map[digest.Digest]cache.Manifest
	lacking  map[digest.Digest]bool // images of which a layer is missing
	from     map[digest.Digest]string
}

func (s *store) Manifest(d digest.Digest) (cache.Manifest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.manifest[d]
	return m, ok
}

func (s *store) PutManifest(m cache.Manifest, stored func()) {
	s.mu.Lock()
	s.manifest[m.Digest] = m
	s.from[m.Digest] = m.Host
	s.mu.Unlock()
	stored()
}

func (s *store) CameFrom(d digest.Digest, host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from[d] == host
}

// Images returns the manifest as an image with one layer of the same digest.
func (s *store) Images(d digest.Digest) (images []cache.Image, missing []content.Part) {
	layer := content.Part{Digest: d, Role: content.RoleNeeded}
	if _, ok := s.Manifest(d); !ok {
		return nil, []content.Part{layer}
	}
	return []cache.Image{{Digest: d, Parts: []content.Part{layer}}}, nil
}

func (s *store) Has(want cache.Want) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lacking[want.Digest] && (!want.Restricted || want.Granted)
}

// lack has images miss their layer.
func (s *store) lack(all ...digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lacking = make(map[digest.Digest]bool)
	for _, d := range all {
		s.lacking[d] = true
	}
}

// evict removes all manifests.
func (s *store) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.manifest)
}

// links are the Links of one restricted repository.
type links map[digest.Digest]bool

func (l links) Linked(_, _ string, d digest.Digest) bool { return l[d] }
func (l links) Link(_, _ string, d digest.Digest)        { l[d] = true }

// rig is a Resolver with all that is around it.
type rig struct {
	*Resolver
	t     testing.TB
	o     Options
	hub   *hub
	store *store
	clock *testkit.Clock
	log   *testkit.Log
	slow  chan time.Time // what After returns
}

func newRig(t testing.TB, rules ...Rule) *rig {
	r := &rig{
		t: t, clock: testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)), log: new(testkit.Log), slow: make(chan time.Time),
		hub:   &hub{tags: map[string]string{}, referrers: map[digest.Digest][]string{}},
		store: &store{manifest: map[digest.Digest]cache.Manifest{}, from: map[digest.Digest]string{}},
	}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	x, err := index.Open(index.Options{ // without room on disk it is in memory
		Dir: t.TempDir(), Room: func() (int64, error) { return 0, nil }, Reserve: 1, Interval: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.o = Options{
		Store: r.store, Index: x, Rules: rules, Metrics: metrics.New().Fills, Now: r.clock.Now, Log: log,
		After: func(time.Duration) <-chan time.Time { return r.slow },
	}
	r.Resolver = New(r.o)
	t.Cleanup(func() {
		r.Close()
		_ = x.Close()
	})
	return r
}

// restart replaces the Resolver by a new one on the same index and store.
func (r *rig) restart() {
	r.Close()
	r.Resolver = New(r.o)
}

// repo is a public repository with a TTL of a minute.
func (r *rig) repo(name string) Repository {
	return Repository{
		Host: "docker.io", Name: name, TTL: time.Minute, StaleFor: -1,
		Registry: func(context.Context) Registry { return r.hub },
	}
}

// get pulls a tag and compares the answer's state and body.
func (r *rig) get(repo Repository, tag string, state State, body string) Answer {
	r.t.Helper()
	answer, err := r.Get(r.t.Context(), repo, tag)
	if err != nil || answer.State != state || string(answer.Body) != body || answer.Digest != digest.FromString(body) {
		r.t.Errorf("Get(%s) = state %d, %q, %v; want state %d, %q", tag, answer.State, answer.Body, err, state, body)
	}
	return answer
}

// fails pulls the tag latest and expects an error of a kind.
func (r *rig) fails(repo Repository, kind upstream.Kind) {
	r.t.Helper()
	answer, err := r.Get(r.t.Context(), repo, "latest")
	if !upstream.IsKind(err, kind) {
		r.t.Errorf("Get(latest) = state %d, %q, %v; want an error: %s", answer.State, answer.Body, err, kind)
	}
}
