package warm_test

import (
	"cmp"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testbox"
	"hubcap/e2e/testkit"
	"hubcap/proxy/reference"
	"hubcap/proxy/server"
	"hubcap/proxy/warm"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	testkit.VerifyMain(m)
}

const (
	kib  = 1 << 10
	mib  = 1 << 20
	repo = "library/demo"
)

type rigOptions struct {
	dir     string
	hub     fakehub.Options
	environ []string // of upstream 0 and the box, without the prefix HUBCAP_
	adjust  func(*server.Settings)
}

// rig is a box in front of a fakehub.
type rig struct {
	*testbox.Rooms
	t     *testing.T
	hub   *fakehub.Hub
	clock *testkit.Clock
	log   *testkit.Log
}

func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	r := &rig{t: t, hub: fakehub.Start(t, o.hub), clock: testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)), log: new(testkit.Log)}
	r.start(cmp.Or(o.dir, t.TempDir()), o)
	return r
}

func (r *rig) start(dir string, o rigOptions) {
	r.t.Helper()
	r.Rooms = testbox.Build(r.t, r.hub, dir, 0, o.environ, server.Options{
		Log: slog.New(slog.NewTextHandler(r.log, nil)), Now: r.clock.Now,
		After: func(time.Duration) <-chan time.Time { return nil }, Adjust: o.adjust,
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ref(t testing.TB, s string) reference.Reference {
	t.Helper()
	one, err := reference.Parse(s, reference.DockerHub)
	must(t, err)
	return one
}

// image fetches an image that must be had.
func (r *rig) image(name string, req warm.Request) warm.Result {
	r.t.Helper()
	got, err := r.Warm.Image(r.t.Context(), ref(r.t, name), req, nil)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", name, err, r.log)
	}
	return got
}

// get is an answer at the mirror port, which must be a 200, and its body.
func (r *rig) get(path string) []byte {
	r.t.Helper()
	status, body := r.try(path)
	if status != http.StatusOK {
		r.t.Fatalf("%s: %d %s", path, status, body)
	}
	return body
}

func (r *rig) try(path string) (int, []byte) {
	r.t.Helper()
	return testbox.Get(r.t, r.Mirror+"/v2/"+path, nil)
}

// asked is what the hub was asked since its log was last emptied: method, kind and
// reference, tokens and refused requests left out.
func (r *rig) asked() (all []string) {
	for _, q := range r.hub.Log() {
		if q.Kind == fakehub.KindManifest && q.Status != http.StatusUnauthorized || q.Kind == fakehub.KindBlob && q.Role == fakehub.RoleRegistry && q.Status != http.StatusUnauthorized {
			all = append(all, q.Method+" "+q.Reference)
		}
	}
	return all
}

// platform returns a copy of a child with another platform.
func platform(d v1.Descriptor, name string) v1.Descriptor {
	parts := strings.Split(name+"//", "/")
	d.Platform = &v1.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	return d
}

var eventually = testkit.Eventually

// multi is an index of three platforms and an attestation, each with layers of its
// own and one that all share.
type multi struct {
	top                       v1.Descriptor
	amd64, arm64, arm, attest fakehub.Image
}

func (r *rig) multi(tag string, seed uint64) (m multi) {
	shared := fakehub.RandomBlob(seed, 3*kib)
	m.amd64 = r.hub.Image(repo, "", shared, fakehub.RandomBlob(seed+1, 10*kib))
	m.arm64 = r.hub.Image(repo, "", shared, fakehub.RandomBlob(seed+2, 20*kib))
	m.arm = r.hub.Image(repo, "", shared, fakehub.RandomBlob(seed+3, 30*kib))
	m.attest = r.hub.Image(repo, "", fakehub.RandomBlob(seed+4, 40*kib))
	m.top = r.hub.Index(repo, tag, m.amd64.Manifest, platform(m.arm64.Manifest, "linux/arm64/v8"),
		platform(m.arm.Manifest, "linux/arm/v7"), platform(m.attest.Manifest, "unknown/unknown"))
	return m
}

// parts are the digests of an image: manifest, config, layers.
func parts(all ...fakehub.Image) (digests []digest.Digest) {
	for _, one := range all {
		digests = append(digests, one.Manifest.Digest, one.Config.Digest)
		for _, l := range one.Layers {
			digests = append(digests, l.Digest)
		}
	}
	return digests
}
