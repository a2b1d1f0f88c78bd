package problems

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hubcap/cache"
	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// rig is a list whose facts and clock the test changes.
type rig struct {
	*List
	facts   Facts
	notices []Notice
	log     *testkit.Log
	metrics *metrics.Metrics
}

func newRig() *rig {
	r := &rig{facts: well(), log: new(testkit.Log), metrics: metrics.New()}
	r.List = New(Options{
		Facts: func() Facts { return r.facts }, Notify: func(n Notice) { r.notices = append(r.notices, n) }, Every: time.Second,
		Metrics: r.metrics, Log: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	return r
}

// after moves the clock and looks.
func (r *rig) after(d time.Duration) {
	r.facts.Now = r.facts.Now.Add(d)
	r.Look()
}

// count is the metric of a severity; -1 if there is none.
func (r *rig) count(severity string) float64 {
	if n, ok := r.metrics.Value("hubcap_problems", "severity", severity); ok {
		return n
	}
	return -1
}

func (r *rig) logged(text string) int { return strings.Count(r.log.String(), text) }

// TestList shows a problem from its beginning to its end: one line of the log and
// one notice each, and none for one that lasts less than ten minutes.
func TestList(t *testing.T) {
	r := newRig()
	r.Look()
	if len(r.All()) != 0 || r.count("critical") != 0 {
		t.Fatalf("%+v", r.All())
	}
	degraded(cache.ProblemReadOnly)(&r.facts)
	r.after(time.Second)
	r.after(9 * time.Minute)
	all := r.All()
	if len(all) != 1 || all[0].ID != "file-system-read-only" || !all[0].Since.Equal(now.Add(-time.Hour)) {
		t.Errorf("%+v", all)
	}
	if r.logged(`level=ERROR msg="problem begins" id=file-system-read-only severity=critical`) != 1 || r.logged("ended") != 0 || len(r.notices) != 0 {
		t.Errorf("%+v\n%s", r.notices, r.log)
	}
	if r.count("critical") != 1 || r.count("warning") != 0 {
		t.Error("the metric differs")
	}
	r.after(time.Minute)
	r.after(time.Hour)
	if len(r.notices) != 1 || r.notices[0].State != Begun || r.notices[0].ID != "file-system-read-only" {
		t.Fatalf("%+v", r.notices)
	}
	seen := r.facts.Now
	r.facts.Cache.Degraded = nil
	r.after(59 * time.Second) // it may come back
	if len(r.All()) != 1 || len(r.notices) != 1 {
		t.Errorf("%+v, %+v", r.All(), r.notices)
	}
	r.after(time.Second)
	r.after(time.Hour)
	if len(r.All()) != 0 || len(r.notices) != 2 || r.notices[1].State != Ended || !r.notices[1].Ended.Equal(seen) || r.logged(`level=INFO msg="problem has ended" id=file-system-read-only`) != 1 {
		t.Errorf("%+v\n%s", r.notices, r.log)
	}
	r.facts.Gateway = client
	r.after(time.Second)
	r.facts.Gateway = well().Gateway
	r.after(5 * time.Minute)
	if len(r.notices) != 2 || r.logged("problem has ended") != 2 {
		t.Errorf("a short one: %+v\n%s", r.notices, r.log)
	}
}

// TestOrder has the critical problems first, then those that have lasted longest.
func TestOrder(t *testing.T) {
	r := newRig()
	r.facts.Gateway = client
	r.after(time.Second)
	met(metrics.LimitTotal)(&r.facts)
	degraded(cache.ProblemSpace)(&r.facts)
	r.after(time.Second)
	var ids []string
	for _, p := range r.All() {
		ids = append(ids, p.ID)
	}
	if !slices.Equal(ids, []string{"file-system-full", "clients-behind-one-address", "connection-limit/total"}) {
		t.Error(ids)
	}
}

// A problem that comes and goes is one problem, as long as it is seen each
// minute.
func TestFlapping(t *testing.T) {
	r := newRig()
	for range 20 {
		r.facts.Gateway = client
		r.after(30 * time.Second)
		r.facts.Gateway = well().Gateway
		r.after(30 * time.Second)
	}
	if len(r.notices) != 1 || r.logged("problem begins") != 1 {
		t.Errorf("%+v\n%s", r.notices, r.log)
	}
}

const canary = "canary-2f8e01"

// hook is an address that notices are posted to.
type hook struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int // of the next answers; 200 when empty
	bodies   []string
	posted   chan struct{}
}

func newHook(t *testing.T, statuses ...int) *hook {
	h := &hook{statuses: statuses, posted: make(chan struct{}, 100)}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.bodies = append(h.bodies, r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type")+" "+string(body))
		if len(h.statuses) > 0 {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(h.statuses[0])
			h.statuses = h.statuses[1:]
		}
		h.posted <- struct{}{}
	}))
	t.Cleanup(h.Close)
	return h
}

// notifier runs a Notifier whose pauses end at once; pauses gets them.
func notifier(t *testing.T, address string, log *testkit.Log) (n *Notifier, paused *[]time.Duration, stop func()) {
	t.Helper()
	paused = new([]time.Duration)
	n = NewNotifier(NotifierOptions{
		URL: address, Box: "berlin", Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, //nolint:nilnil // as net/http wants it
		RootCAs: func() *x509.CertPool { return nil }, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil)),
		After: func(d time.Duration) <-chan time.Time {
			*paused = append(*paused, d)
			now := make(chan time.Time, 1)
			now <- time.Now()
			return now
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.Run(ctx) })
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return n, paused, stop
}

var notice = Notice{State: Begun, Problem: Problem{ID: "offline", Severity: Warning, Since: now, What: "w", Impact: "i", Do: "d", Runbook: "offline"}}

// TestNotify shows what is posted, and that a failed attempt is repeated.
func TestNotify(t *testing.T) {
	h, log := newHook(t, 503, 429), new(testkit.Log)
	n, paused, stop := notifier(t, h.URL+"/"+canary, log)
	n.Notify(notice)
	for range 3 {
		<-h.posted
	}
	stop()
	if len(h.bodies) != 3 || len(*paused) != 2 || log.String() != "" {
		t.Fatalf("%q after %v\n%s", h.bodies, *paused, log)
	}
	head, body, _ := strings.Cut(h.bodies[2], " {")
	var got map[string]any
	if err := json.Unmarshal([]byte("{"+body), &got); err != nil || head != "POST /"+canary+" application/json" {
		t.Fatalf("%s %v", head, err)
	}
	for key, want := range map[string]string{
		"box": "berlin", "state": "begun", "id": "offline", "severity": "warning", "since": "2026-11-28T12:00:00Z", "what": "w", "impact": "i", "do": "d",
		"runbook": "offline", "text": "berlin: begun: w. i. Do: d",
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %s", key, got[key], want)
		}
	}
	if len(got) != 10 {
		t.Errorf("%d fields: %v", len(got), got)
	}
}

// TestNotifyGivesUp after some attempts, at once after a refusal, and does not
// follow a redirect. What it logs holds no part of the address.
func TestNotifyGivesUp(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	for name, tc := range map[string]struct {
		statuses []int
		address  string
		tries    string
	}{
		"failing":    {slices.Repeat([]int{500}, 9), "", "tries=5"},
		"refused":    {[]int{403}, "", "tries=1"},
		"redirected": {[]int{307}, "", "tries=1"},
		"dead":       {nil, dead.URL, "tries=5"},
		"no address": {nil, "http://\x7f", "tries=1"},
	} {
		t.Run(name, func(t *testing.T) {
			h, log := newHook(t, tc.statuses...), new(testkit.Log)
			address := tc.address
			if address == "" {
				address = h.URL
			}
			n, _, stop := notifier(t, address+"/"+canary, log)
			n.Notify(notice)
			for deadline := time.Now().Add(testkit.Patience); !strings.Contains(log.String(), "could not be delivered"); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it does not give up")
				}
			}
			stop()
			if text := log.String(); !strings.Contains(text, tc.tries) || strings.Contains(text, canary) {
				t.Error(text)
			}
		})
	}
}

// TestNotifyNeverBlocks while nothing is accepted: what does not fit is dropped,
// and the log says so once.
func TestNotifyNeverBlocks(t *testing.T) {
	log := new(testkit.Log)
	n := NewNotifier(NotifierOptions{Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil))})
	for range queued + 10 {
		n.Notify(notice)
	}
	if strings.Count(log.String(), "a notification is dropped") != 1 {
		t.Error(log)
	}
}
