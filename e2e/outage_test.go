package e2e

import (
	"net/http"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// outages are the ways in which an upstream fails.
var outages = []struct {
	name  string
	begin func(hub *fakehub.Hub)
}{
	{"down", func(hub *fakehub.Hub) { hub.Down() }},
	{"429", always(fakehub.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"600"}}})},
	{"503", always(fakehub.Fault{Status: http.StatusServiceUnavailable})},
	{"stalled", always(fakehub.Fault{Delay: time.Hour})},
	{"token service dead", func(hub *fakehub.Hub) { hub.RevokeTokens(); hub.Down(fakehub.RoleToken) }},
}

func always(f fakehub.Fault) func(hub *fakehub.Hub) {
	return func(hub *fakehub.Hub) { hub.Script(fakehub.Always(&f)) }
}

// TestOutage has daemons pull an image that the box holds while its upstream fails, with the tag past its time at every pull. They get it
// from the box and do not turn to the upstream, which is asked by the box for the tag, for a token and how it is, and for nothing that is held.
func TestOutage(t *testing.T) {
	t.Parallel()
	need(t)
	daemons := []string{"dockerd", "ctr", "containerd2", "buildkit"}
	for _, name := range daemons {
		clientNamed(t, name)
	}
	// A question that fails is asked three times, and again after five seconds: on a slow machine a pull may see that twice.
	const tries = 2 * 3
	for _, outage := range outages {
		t.Run(outage.name, func(t *testing.T) {
			t.Parallel()
			held, other := multiArchOf("library/held"), multiArchOf("library/other")
			s := newSite(t, held, other)
			h := s.startHubcap(t, scratch(t), "HUBCAP_TAG_TTL=1ms", "HUBCAP_HEADER_TIMEOUT=3s", "HUBCAP_RATE_LIMIT_WAIT=0s")
			mustPull(t, clientNamed(t, "containerd2").start(t, s, mirror), held) // of all of them it asks for most
			sessions := map[string]session{}
			for _, name := range daemons {
				sessions[name] = clientNamed(t, name).start(t, s, mirror)
			}
			s.hub.Reset()
			outage.begin(s.hub)
			for _, name := range daemons {
				if err := sessions[name].pull(held); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			s.assertNoBypass(t)
			ofTag := fakehub.All(fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(http.MethodHead), fakehub.OfReference(held.tag))
			heads, tokens, all := s.hub.Count(ofTag), s.hub.Count(fakehub.OfKind(fakehub.KindToken)), s.hub.Count()
			health := s.hub.Count(fakehub.OfKind(fakehub.KindPing)) + s.hub.Count(fakehub.OfKind(fakehub.KindOther), fakehub.OfMethod(http.MethodHead))
			t.Logf("for %d pulls the upstream saw %d HEADs of the tag, %d questions for a token, %d how it is", len(daemons), heads, tokens, health)
			if most := tries * len(daemons); heads > most || tokens > most || health > most || heads+tokens+health != all {
				t.Errorf("the upstream was asked:\n%s", describe(s.hub.Log()))
			}
			// Not found would be a lie, and one that clients remember.
			if status := h.status(manifestPath(other)); status < 500 && status != http.StatusTooManyRequests || outage.name == "429" && status != http.StatusTooManyRequests {
				t.Errorf("a tag that is not held is answered %d", status)
			}
		})
	}
}
