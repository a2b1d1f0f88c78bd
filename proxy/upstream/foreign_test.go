package upstream

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/upstream/credentials"
)

// answerOf is an answer that states a source and how many pulls it has left.
func answerOf(status, left, limit int, source string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{
		"Ratelimit-Limit":         {fmt.Sprintf("%d;w=21600", limit)},
		"Ratelimit-Remaining":     {fmt.Sprintf("%d;w=21600", left)},
		"Docker-Ratelimit-Source": {source},
	}}
}

// TestForeignPulls looks at answers one after the other.
func TestForeignPulls(t *testing.T) {
	t.Parallel()
	type step struct {
		pull    bool
		status  int // 0 for no answer
		left    int
		limit   int    // 100 when 0
		source  string // "office" when empty
		foreign int
	}
	const get, head = true, false
	for name, steps := range map[string][]step{
		"own pulls only":             {{pull: head, status: 200, left: 100}, {pull: get, status: 200, left: 99}, {pull: get, status: 200, left: 98}, {pull: head, status: 200, left: 98}},
		"somebody pulls":             {{pull: head, status: 200, left: 100}, {pull: head, status: 200, left: 93, foreign: 7}, {pull: get, status: 200, left: 90, foreign: 2}, {pull: head, status: 200, left: 90}},
		"the window gives some back": {{pull: head, status: 200, left: 50}, {pull: head, status: 200, left: 100}, {pull: head, status: 200, left: 99, foreign: 1}},
		"less than the window gives": {{pull: head, status: 200, left: 50}, {pull: head, status: 200, left: 50}},
		"more than the window gives": {{pull: head, status: 200, left: 50}, {pull: get, status: 200, left: 45, foreign: 4}},
		"own pulls are refused":      {{pull: head, status: 200, left: 1}, {pull: get, status: 200, left: 0}, {pull: get, status: 429, left: 0}, {pull: get, status: 429, left: 0}, {pull: head, status: 200, left: 0}},
		"a challenge is no pull":     {{pull: get, status: 401, left: 100}, {pull: get, status: 200, left: 99}, {pull: head, status: 200, left: 98, foreign: 1}},
		"perhaps counted":            {{pull: head, status: 200, left: 100}, {pull: get}, {pull: get, status: 502, left: 99}, {pull: head, status: 200, left: 98}},
		"perhaps not counted":        {{pull: head, status: 200, left: 100}, {pull: get, status: 404, left: 100}, {pull: get}, {pull: head, status: 200, left: 100}, {pull: head, status: 200, left: 99, foreign: 1}},
		"another limit":              {{pull: head, status: 200, left: 150, limit: 200}, {pull: head, status: 200, left: 100}, {pull: head, status: 200, left: 90, foreign: 10}},
		"two sources":                {{pull: head, status: 200, left: 100}, {pull: head, status: 200, left: 40, source: "account"}, {pull: get, status: 200, left: 99}, {pull: head, status: 200, left: 38, source: "account", foreign: 2}, {pull: head, status: 200, left: 99}},
		"numbers that overflow":      {{pull: get, status: 200, left: 100}, {pull: head, status: 200, left: math.MaxInt}, {pull: head, status: 200, left: 98, foreign: 1}},
		"nothing is left":            {{pull: head, status: 200, left: 5}, {pull: head, status: 200, left: 0, foreign: 5}, {pull: head, status: 200, left: 0}, {pull: head, status: 200, left: 100}, {pull: head, status: 200, left: 98, foreign: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s spending
			for i, step := range steps {
				if step.limit == 0 {
					step.limit = 100
				}
				if step.source == "" {
					step.source = "office"
				}
				var resp *http.Response
				if step.status != 0 {
					resp = answerOf(step.status, step.left, step.limit, step.source)
				}
				if got, _ := s.end(s.begin(step.pull), resp, true); got != step.foreign {
					t.Errorf("step %d: %d foreign pulls, want %d", i, got, step.foreign)
				}
			}
		})
	}
}

// TestForeignPullsOutOfOrder has answers arrive in another order than the registry wrote them.
func TestForeignPullsOutOfOrder(t *testing.T) {
	t.Parallel()
	head := func(s *spending, left int) int {
		n, _ := s.end(s.begin(false), answerOf(200, left, 100, "office"), true)
		return n
	}
	end := func(s *spending, r sent, left int) int {
		n, _ := s.end(r, answerOf(200, left, 100, "office"), true)
		return n
	}
	t.Run("own pulls", func(t *testing.T) {
		var s spending
		head(&s, 100)
		a, b, c := s.begin(true), s.begin(true), s.begin(true)
		if n := end(&s, c, 97) + end(&s, a, 99) + end(&s, b, 98) + head(&s, 97); n != 0 {
			t.Errorf("%d foreign pulls, want none", n)
		}
		if n := head(&s, 95); n != 2 {
			t.Errorf("%d foreign pulls, want 2", n)
		}
	})
	t.Run("the window", func(t *testing.T) {
		var s spending
		head(&s, 10)
		late := s.begin(false) // answered when 3 were left, before the window ended
		if n := head(&s, 100) + end(&s, late, 3); n != 0 {
			t.Errorf("%d foreign pulls, want none", n)
		}
	})
	t.Run("a pull that fails", func(t *testing.T) {
		var s spending
		head(&s, 100)
		late := s.begin(false) // answered before the pull was counted
		failed := s.begin(true)
		s.end(failed, nil, true)
		if n := end(&s, late, 100) + head(&s, 99); n != 0 {
			t.Errorf("%d foreign pulls, want none", n)
		}
	})
}

// foreign reads the counter; -1 if there is no series.
func (f *fixture) foreign(identity string) float64 {
	v, ok := f.metrics.Value("hubcap_upstream_ratelimit_foreign_total", "identity", identity)
	if !ok {
		return -1
	}
	return v
}

// TestForeignPullsAreCounted has hosts pull past the box from its address.
func TestForeignPullsAreCounted(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Anonymous: true})
	img := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	direct := func(n int) {
		t.Helper()
		for range n {
			resp, err := http.Get(hub.RegistryURL() + "/v2/" + repo + "/manifests/latest")
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			resp.Body.Close()
		}
	}
	want := func(n float64) {
		t.Helper()
		if err := client.head(within(t)); err != nil {
			t.Fatal(err)
		}
		if got := client.foreign(identityAnonymous); got != n {
			t.Errorf("%v foreign pulls, want %v", got, n)
		}
	}
	want(-1) // there is no limit yet
	hub.Set(func(o *fakehub.Options) { o.RateLimit = 50 })
	want(0)
	for range 3 {
		if _, err := client.GetManifest(within(t), repo, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	want(0)
	direct(5)
	want(5)
	hub.ResetRateLimit()
	want(5)
	direct(2)
	if _, err := client.GetManifest(within(t), repo, img.Manifest.Digest.String()); err != nil {
		t.Fatal(err)
	}
	want(7)
	if got := client.Status().Identities[0].Limit.Foreign; got != 7 {
		t.Errorf("Status: %d foreign pulls, want 7", got)
	}
}

// TestOwnPullsAreNotForeign has the box ask for much at once, by each of its
// identities, while the window gives pulls back.
func TestOwnPullsAreNotForeign(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{RateLimit: 10_000, UserRateLimit: 10_000, Users: map[string]string{boxUser: canary}})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	token := strings.TrimPrefix(hub.TokenURL(), "http://")
	o := Options{
		Label: "registry.test", URL: client.o.URL, PrivateCIDRs: loopback, TokenHosts: []string{token},
		ConnectTimeout: 20 * time.Second, HeaderTimeout: 20 * time.Second, StallTimeout: 20 * time.Second,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, //nolint:nilnil // as net/http wants it
		Now:   time.Now, MaxManifest: 1 << 16, TryAgain: time.Nanosecond, Metrics: client.metrics.Upstreams, Log: client.o.Log,
	}
	withCredentials(&o)
	set, err := NewSet([]Entry{{
		Host: "registry.test", Options: o,
		Parts: []Part{{Repositories: []string{"other/**"}, Login: credentials.Login{Username: boxUser, Password: canary}}},
	}}, "registry.test")
	if err != nil {
		t.Fatal(err)
	}
	up := set.Default()
	clients := []*Client{up.Anonymous, up.Own, up.parts[0].own}
	err = together(48, func(i int) error {
		one := clients[i%len(clients)]
		for n := range 8 {
			if i == 0 && n%3 == 0 {
				hub.ResetRateLimit()
			}
			if _, err := one.GetManifest(context.WithoutCancel(t.Context()), repo, "latest"); err != nil {
				return err
			}
			if _, err := one.HeadManifest(context.WithoutCancel(t.Context()), repo, "latest"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, identity := range []string{identityAnonymous, identityCredentials} {
		if got := client.foreign(identity); got != 0 {
			t.Errorf("%s: %v foreign pulls, want none", identity, got)
		}
	}
}
