package upstream

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

func TestPulls(t *testing.T) {
	t.Parallel()
	tests := []struct {
		header string
		n      int
		window time.Duration
		ok     bool
	}{
		{"100;w=21600", 100, 6 * time.Hour, true},
		{"76 ; w=21600", 76, 6 * time.Hour, true},
		{"0;w=21600", 0, 6 * time.Hour, true},
		{"200", 200, 0, true},
		{"200;w=", 200, 0, true},
		{"200;w=-5", 200, 0, true},
		{"200;w=99999999999999999999", 200, 0, true},
		{"200;burst=3", 200, 0, true},
		{";w=21600", 0, 6 * time.Hour, false},
		{"", 0, 0, false},
		{"-1;w=21600", 0, 6 * time.Hour, false},
		{"many", 0, 0, false},
		{"99999999999999999999", 0, 0, false},
		{"1e3", 0, 0, false},
	}
	for _, tt := range tests {
		n, window, ok := pulls(tt.header)
		if ok != tt.ok || ok && n != tt.n || window != tt.window {
			t.Errorf("%q: got %d in %s, %t, want %d in %s, %t", tt.header, n, window, ok, tt.n, tt.window, tt.ok)
		}
	}
}

// TestForecast: the forecast follows the rate at which the number of pulls left
// decreases.
func TestForecast(t *testing.T) {
	t.Parallel()
	const never = -1
	type step struct {
		after time.Duration
		left  int
		want  time.Duration
	}
	for name, steps := range map[string][]step{
		"nothing is used":     {{0, 100, never}, {time.Minute, 100, never}},
		"ten a minute":        {{0, 100, never}, {time.Minute, 90, 9 * time.Minute}, {time.Minute, 80, 8 * time.Minute}},
		"within one step":     {{0, 100, never}, {30 * time.Second, 90, 270 * time.Second}},
		"used up":             {{0, 10, never}, {time.Minute, 0, 0}},
		"nothing at first":    {{0, 0, 0}},
		"pulls come back":     {{0, 50, never}, {time.Minute, 40, 4 * time.Minute}, {time.Minute, 100, never}, {time.Minute, 90, 9 * time.Minute}},
		"a burst is long ago": {{0, 100, never}, {time.Minute, 50, time.Minute}, {61 * time.Minute, 50, never}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := newClock()
			b := newBudget(clock.Now)
			for i, s := range steps {
				clock.Advance(s.after)
				b.mu.Lock()
				got := b.forecast(s.left)
				b.mu.Unlock()
				if got != s.want {
					t.Errorf("step %d: %s, want %s", i, got, s.want)
				}
			}
		})
	}
}

// TestPullLimitIsExported reads the headers of a hub with a limit.
func TestPullLimitIsExported(t *testing.T) {
	t.Parallel()
	clock := newClock()
	hub, client := newHub(t, fakehub.Options{Anonymous: true, RateLimit: 10}, goesBy(clock))
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	value := func(metric string, labels ...string) float64 {
		v, _ := client.metrics.Value(metric, labels...)
		return v
	}
	for i := range 3 {
		if i == 1 {
			clock.Advance(time.Minute)
		}
		if _, err := client.GetManifest(within(t), repo, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	for metric, want := range map[string]float64{
		"hubcap_upstream_ratelimit_limit":             10,
		"hubcap_upstream_ratelimit_remaining":         7,
		"hubcap_upstream_ratelimit_window_seconds":    6 * 3600,
		"hubcap_upstream_ratelimit_exhausted_seconds": 7 * 60 / 2,
		"hubcap_upstream_pulls_total":                 3,
	} {
		if got := value(metric, "identity", "anonymous"); got != want {
			t.Errorf("%s: %v, want %v", metric, got, want)
		}
	}
	want := LimitStatus{Limit: 10, Remaining: 7, Window: 6 * time.Hour, Source: "127.0.0.1", Stated: clock.Now(), Exhausted: 210 * time.Second}
	if got := client.Status().Identities[0].Limit; got != want {
		t.Errorf("Status: %+v, want %+v", got, want)
	}
}

// TestPullLimit uses up the limit of a hub. Manifests are no longer requested
// then, HEADs and blobs are, and an occasional HEAD finds out that there are
// pulls again.
func TestPullLimit(t *testing.T) {
	t.Parallel()
	clock := newClock()
	hub, client := newHub(t, fakehub.Options{Anonymous: true, RateLimit: 2, Clock: clock.Now}, goesBy(clock))
	img := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	get := func() error {
		_, err := client.GetManifest(within(t), repo, "latest")
		return err
	}
	for range 2 {
		if err := get(); err != nil {
			t.Fatal(err)
		}
	}
	if e := wantKind(t, get(), RateLimited); e.RetryAfter != 6*time.Hour {
		t.Errorf("the hub's own refusal asks for %s", e.RetryAfter)
	}
	hub.Reset()
	for range 100 {
		wantKind(t, get(), RateLimited)
	}
	if n := hub.Count(); n != 0 {
		t.Errorf("%d requests although there are no pulls", n)
	}
	if err := client.head(within(t)); err != nil {
		t.Errorf("HEAD: %v", err)
	}
	blob, err := client.OpenBlob(within(t), repo, img.Layers[0].Digest, 0, -1)
	if err != nil {
		t.Fatalf("blob: %v", err)
	}
	blob.Body.Close()
	hub.Reset()
	clock.Advance(probeAfter)
	for range 10 {
		wantKind(t, get(), RateLimited)
	}
	if n := hub.Count(); n != 1 || hub.Log()[0].Method != http.MethodHead {
		t.Errorf("%d requests, want one HEAD", n)
	}
	hub.ResetRateLimit()
	clock.Advance(probeAfter)
	if err := get(); err != nil {
		t.Errorf("there are pulls again: %v", err)
	}
}

// TestPullLimitIsLifted: a registry that confirms a manifest without stating a
// limit no longer has one.
func TestPullLimitIsLifted(t *testing.T) {
	t.Parallel()
	clock := newClock()
	hub, client := newHub(t, fakehub.Options{Anonymous: true, RateLimit: 1, Clock: clock.Now}, goesBy(clock))
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	get := func() error {
		_, err := client.GetManifest(within(t), repo, "latest")
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantKind(t, get(), RateLimited)
	}
	if n := strings.Count(client.log.String(), "the pull limit is reached"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
	clock.Advance(probeAfter)
	wantKind(t, get(), RateLimited) // the HEAD speaks of it
	hub.Set(func(o *fakehub.Options) { o.RateLimit = 0 })
	clock.Advance(probeAfter)
	if err := get(); err != nil {
		t.Errorf("there is no limit any more: %v", err)
	}
}

// TestAbuseLimit has a hub answer 429 to everything. It gets no request for as
// long as it states, and one after that.
func TestAbuseLimit(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		header http.Header
		pauses []time.Duration
	}{
		"Retry-After":  {http.Header{"Retry-After": {"7"}}, []time.Duration{7 * time.Second, 7 * time.Second}},
		"without":      {nil, []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute}},
		"empty header": {http.Header{"Retry-After": {""}, "Ratelimit-Remaining": {";w=21600"}}, []time.Duration{5 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := newClock()
			hub, client := newHub(t, fakehub.Options{Anonymous: true}, goesBy(clock))
			hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
			hub.Script(fakehub.Always(&fakehub.Fault{Status: 429, Header: tt.header, Body: []byte("Too Many Requests")}))
			for i, pause := range tt.pauses {
				hub.Reset()
				e := wantKind(t, client.head(within(t)), RateLimited)
				if e.RetryAfter != pause || e.Wait() != pause {
					t.Errorf("refusal %d asks for %s, want %s", i, e.RetryAfter, pause)
				}
				clock.Advance(pause - time.Second)
				for range 5 {
					e := wantKind(t, client.head(within(t)), RateLimited)
					_, err := client.HeadBlob(within(t), repo, digest.FromString("none"))
					wantKind(t, err, RateLimited)
					_, err = client.GetManifest(within(t), repo, "latest")
					wantKind(t, err, RateLimited)
					if e.RetryAfter != time.Second {
						t.Errorf("%s are left, want 1s", e.RetryAfter)
					}
				}
				if n := hub.Count(); n != 1 {
					t.Errorf("%d requests during pause %d, want 1", n, i)
				}
				clock.Advance(time.Second)
			}
			hub.Script(nil)
			if err := client.head(within(t)); err != nil {
				t.Errorf("the hub answers again: %v", err)
			}
			if !strings.Contains(client.log.String(), "says 429 to requests of any kind") {
				t.Error("nothing is logged")
			}
			hub.Script(fakehub.Always(&fakehub.Fault{Status: 429, Header: tt.header}))
			if e := wantKind(t, client.head(within(t)), RateLimited); e.RetryAfter != tt.pauses[0] {
				t.Errorf("the first pause after an answer is %s", e.RetryAfter)
			}
		})
	}
}

// TestAbuseLimitWithoutPulls: a 429 to a HEAD or a blob is not about the pull
// limit, whether any pulls are left or not.
func TestAbuseLimitWithoutPulls(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Anonymous: true}, goesBy(newClock()))
	img := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	hub.Script(fakehub.Always(&fakehub.Fault{
		Status: 429, Header: http.Header{"Retry-After": {"7"}, "Ratelimit-Remaining": {"0;w=21600"}}, Body: []byte("Too Many Requests"),
	}))
	for range 5 {
		if e := wantKind(t, client.head(within(t)), RateLimited); e.RetryAfter != 7*time.Second {
			t.Errorf("asks for %s", e.RetryAfter)
		}
		_, err := client.OpenBlob(within(t), repo, img.Layers[0].Digest, 0, -1)
		wantKind(t, err, RateLimited)
	}
	if n := hub.Count(); n != 1 {
		t.Errorf("%d requests during the pause, want 1", n)
	}
	if client.budget.wait() != 0 {
		t.Error("pulls count as used up")
	}
}

// TestTokenServiceLimited: the Retry-After of a token service is kept.
func TestTokenServiceLimited(t *testing.T) {
	t.Parallel()
	clock := newClock()
	hub, client := newHub(t, fakehub.Options{}, goesBy(clock))
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	hub.Script(fakehub.Always(&fakehub.Fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, fakehub.OfKind(fakehub.KindToken)))
	for range 3 {
		if e := wantKind(t, client.head(within(t)), RateLimited); e.RetryAfter != 7*time.Second {
			t.Errorf("asks for %s", e.RetryAfter)
		}
	}
	if n := hub.Count(fakehub.OfKind(fakehub.KindToken)); n != 1 {
		t.Errorf("%d token requests", n)
	}
	hub.Script(nil)
	clock.Advance(7 * time.Second)
	if err := client.head(within(t)); err != nil {
		t.Error(err)
	}
}

func TestIsPullLimit(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		header http.Header
		body   string
		want   bool
	}{
		"Docker Hub's words":   {nil, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}`, true},
		"nothing left":         {http.Header{"Ratelimit-Remaining": {"0;w=21600"}}, "", true},
		"something left":       {http.Header{"Ratelimit-Remaining": {"3;w=21600"}}, "Too Many Requests (HAP429)", false},
		"abuse":                {nil, "Too Many Requests", false},
		"another registry's":   {nil, `{"errors":[{"code":"TOOMANYREQUESTS","message":"Rate exceeded"}]}`, false},
		"nothing":              {nil, "", false},
		"a text without end":   {nil, strings.Repeat("x", 1<<20), false},
		"the words in no JSON": {nil, "pull rate limit", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp := &http.Response{Header: tt.header, Body: io.NopCloser(strings.NewReader(tt.body))}
			if resp.Header == nil {
				resp.Header = http.Header{}
			}
			if got := isPullLimit(resp, time.Hour); got != tt.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
