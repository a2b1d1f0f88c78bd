package images_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testbox"
	"hubcap/e2e/testkit"
	"hubcap/proxy/images"
	"hubcap/proxy/reference"
	"hubcap/proxy/server"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	testkit.VerifyMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const kib, mib = 1 << 10, 1 << 20

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// box is a whole hubcap in front of a fakehub.
type box struct {
	*testbox.Rooms
	t       testing.TB
	hub     *fakehub.Hub
	clock   *testkit.Clock
	log     *testkit.Log
	dir     string
	environ []string
	cache   int64

	unsettled []digest.Digest // manifests that may not be on disk yet
}

// newBox starts a hubcap. Nothing happens in it by itself.
func newBox(t testing.TB, cache int64, environ ...string) *box {
	t.Helper()
	b := &box{
		t: t, hub: fakehub.Start(t, fakehub.Options{}), clock: testkit.NewClock(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)),
		log: new(testkit.Log), dir: t.TempDir(), cache: cmp.Or(cache, 1<<30), environ: append([]string{"HUBCAP_RATE_LIMIT_WAIT=0s"}, environ...),
	}
	b.start()
	return b
}

func (b *box) start() {
	b.t.Helper()
	b.Rooms = testbox.Build(b.t, b.hub, b.dir, b.cache, b.environ, server.Options{
		Log: slog.New(slog.NewTextHandler(b.log, nil)), Now: b.clock.Now,
		After: func(time.Duration) <-chan time.Time { return nil },
		Sleep: func(_ context.Context, d time.Duration) error { b.clock.Advance(d); return nil },
		Adjust: func(s *server.Settings) {
			s.Manifests, s.Fills, s.Transfers, s.StartWithin = 8*mib, 64, 64, time.Hour
			s.SlowWriter, s.TryAgain = time.Minute, time.Hour
		},
	})
}

// restart stops the hubcap and starts it on the same directory.
func (b *box) restart() {
	b.t.Helper()
	b.Stop()
	b.start()
}

// ask sends a request and returns the answer's digest and body. The error is for
// any other status than 200.
func (b *box) ask(method, path string) (d digest.Digest, body []byte, err error) {
	resp := httptest.NewRecorder()
	defer func() {
		if cut := recover(); cut != nil {
			err = fmt.Errorf("%s %s: %v", method, path, cut)
		}
	}()
	req := httptest.NewRequestWithContext(context.Background(), method, path, nil)
	req.RemoteAddr = "127.0.0.1:4000"
	b.Handler.ServeHTTP(resp, req)
	if resp.Code != http.StatusOK {
		return "", nil, fmt.Errorf("%s %s: %d %s", method, path, resp.Code, resp.Body)
	}
	d = digest.Digest(resp.Header().Get("Docker-Content-Digest"))
	if strings.Contains(path, "/manifests/") {
		b.unsettled = append(b.unsettled, d)
	}
	return d, resp.Body.Bytes(), nil
}

func (b *box) mustAsk(method, path string) digest.Digest {
	b.t.Helper()
	d, _, err := b.ask(method, path)
	must(b.t, err)
	return d
}

func manifestPath[R ~string](repo string, reference R) string {
	return "/v2/" + repo + "/manifests/" + string(reference)
}

func blobPath(repo string, d digest.Digest) string { return fmt.Sprintf("/v2/%s/blobs/%s", repo, d) }

const repo = "library/demo"

// blobs asks for the config and the layers of an image.
func (b *box) blobs(img fakehub.Image) {
	b.t.Helper()
	b.mustAsk(http.MethodGet, blobPath(repo, img.Config.Digest))
	for _, layer := range img.Layers {
		b.mustAsk(http.MethodGet, blobPath(repo, layer.Digest))
	}
}

// settle waits until all that was fetched is stored.
func (b *box) settle() {
	b.t.Helper()
	for _, d := range b.unsettled {
		_ = b.Cache.StoreManifest(d) // what was only asked about by HEAD is not held
	}
	b.unsettled = nil
	for end := time.Now().Add(testkit.Patience); b.Ledger.Status().Reserved != 0 || b.Cache.Status().FillsRunning != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatal("fills do not end")
		}
	}
}

// image is the row of an image.
func (b *box) image(name string) images.Image {
	b.t.Helper()
	r, err := reference.Parse(name, reference.DockerHub)
	must(b.t, err)
	row, ok := b.Images.Image(r)
	if !ok {
		b.t.Fatalf("%s is not known", name)
	}
	return row
}

// text describes a row: its platforms with W for a wanted one and the kinds of its
// gaps.
func text(row images.Image) string {
	all := []string{fmt.Sprintf("%s %d", cmp.Or(string(row.Outage), "-"), row.Pulls)}
	for _, p := range row.Platforms {
		one := fmt.Sprintf("%s %d", cmp.Or(p.Platform, "plain"), p.Pulls)
		if p.Wanted {
			one += " W"
		}
		for _, g := range p.Gaps {
			one += fmt.Sprintf(" %s: %s", g.Part, g.Why)
		}
		all = append(all, one)
	}
	return strings.Join(all, "; ")
}

// want compares the row of an image with one of the wanted ones.
func (b *box) want(name string, want ...string) {
	b.t.Helper()
	if got := text(b.image(name)); !slices.Contains(want, got) {
		b.t.Errorf("%s: %s\nwant %q", name, got, want)
	}
}

// multi adds an index of two platforms, each with a layer of its own and one that
// both have.
func (b *box) multi(tag string) (amd64, arm64 fakehub.Image, index digest.Digest) {
	base := fakehub.RandomBlob(1, 2000)
	amd64 = b.hub.Image(repo, "", base, fakehub.RandomBlob(2, 3000))
	arm64 = b.hub.Image(repo, "", base, fakehub.RandomBlob(3, 4000))
	other := *arm64.Manifest.Platform
	other.Architecture = "arm64"
	arm64.Manifest.Platform = &other
	return amd64, arm64, b.hub.Index(repo, tag, amd64.Manifest, arm64.Manifest).Digest
}
