package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// site is an office whose only way to the outside is a stand-in for Docker Hub under all of Docker Hub's names.
type site struct {
	ns     *namespace
	hub    *fakehub.Hub
	caFile string // of the stand-in
}

// boxName is what the clients call hubcap where its name has to be in a certificate.
const boxName = "box.example.com"

func newSite(t *testing.T, images ...*image) *site {
	t.Helper()
	return newSiteWith(t, nil, images...)
}

// newSiteWith has the stand-in play other registries as well, with the same content.
func newSiteWith(t *testing.T, registries []string, images ...*image) *site {
	t.Helper()
	names := fakehub.DockerHub()
	names.Registry = append(names.Registry, registries...)
	ns := newNamespace(t, append([]string{boxName, names.Token, names.CDN}, names.Registry...)...)
	hub := fakehub.Start(t, fakehub.Options{
		TLS: true, Names: names, Addr: "127.0.0.1:443",
		Listen: ns.listen,
	})
	s := &site{ns: ns, hub: hub, caFile: filepath.Join(scratch(t), "ca.pem")}
	if err := os.WriteFile(s.caFile, hub.CAPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		s.publish(i)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the upstream was asked:\n%s", tail([]byte(describe(hub.Log()))))
		}
	})
	return s
}

// publish puts an image into the stand-in. What a manifest names must be there before it.
func (s *site) publish(i *image) {
	for _, content := range i.blobs {
		s.hub.AddBlob(i.repository, content)
	}
	for _, manifest := range i.manifests {
		s.hub.AddManifest(i.repository, "", manifest.mediaType, manifest.content)
	}
	s.hub.SetTag(i.repository, i.tag, i.root.Digest)
}

// describe is a log as lines.
func describe(log []fakehub.Request) string {
	var lines strings.Builder
	for _, r := range log {
		fmt.Fprintf(&lines, "%s %s %s%s %s → %d, %d bytes (%s)\n", r.Time.Format("15:04:05.000"), r.Method, r.Host, r.Path, r.Range, r.Status, r.Sent, r.UserAgent)
	}
	return lines.String()
}

// agents are the programs that the upstream has seen, by the first word of their User-Agent.
func agents(log []fakehub.Request) []string {
	seen := map[string]bool{}
	for _, r := range log {
		name, _, _ := strings.Cut(r.UserAgent, "/")
		seen[name] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// assertNoBypass fails if anybody but hubcap spoke to the upstream: every client goes there itself, in silence, when it does not like
// an answer of its mirror.
func (s *site) assertNoBypass(t *testing.T) {
	t.Helper()
	for _, r := range s.hub.Log() {
		if !strings.HasPrefix(r.UserAgent, "hubcap/") {
			t.Errorf("went around hubcap: %s", describe([]fakehub.Request{r}))
		}
	}
	if leaks := s.hub.AuthorizationLeaks(); leaks != 0 {
		t.Errorf("%d requests brought credentials to the CDN", leaks)
	}
}

// assertCrossedOnce fails unless exactly what a client needs of an image came from the upstream, and came once.
func (s *site) assertCrossedOnce(t *testing.T, i *image) {
	t.Helper()
	crossed := map[string]int64{}
	for _, r := range s.hub.Log() {
		if r.Method == http.MethodGet && r.Status < 300 {
			crossed[r.Reference] += r.Sent
		}
	}
	i.assertOnce(t, crossed)
	for _, blob := range i.pulled() {
		fromStart := func(r *fakehub.Request) bool { return r.Offset == 0 }
		if n := s.hub.Count(fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(blob.Digest), fromStart); n != 1 {
			t.Errorf("%d requests for the beginning of %s at the CDN, want 1", n, blob.Digest)
		}
	}
	if heads := s.hub.Count(fakehub.OfMethod(http.MethodHead), fakehub.OfReference(i.tag), fakehub.OfStatus(http.StatusOK)); heads > 1 {
		t.Errorf("a tag that is fresh after the first HEAD was answered %d of them", heads)
	}
}

// assertOnce is given the bytes that crossed, by digest or tag.
func (i *image) assertOnce(t *testing.T, crossed map[string]int64) {
	t.Helper()
	crossed[i.root.Digest.String()] += crossed[i.tag]
	wanted := map[digest.Digest]int64{}
	for _, blob := range i.pulled() {
		wanted[blob.Digest] = blob.Size
	}
	for _, d := range i.needs() {
		wanted[d] = int64(len(i.manifests[d].content))
	}
	for d, size := range wanted {
		if got := crossed[d.String()]; got != size {
			t.Errorf("of %s %d bytes crossed the link, want its size, %d", d, got, size)
		}
	}
	for d := range i.all() {
		if got := crossed[d.String()]; got != 0 && wanted[d] == 0 {
			t.Errorf("of %s %d bytes crossed the link, and nobody had asked for it", d, got)
		}
	}
}
