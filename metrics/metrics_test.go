package metrics

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestEveryNameOfTheSetsIsExported(t *testing.T) {
	m := New()
	for _, f := range fillFailureNames {
		m.Fills.Started()
		m.Fills.Failed(f)
	}
	for _, b := range uncachedNames {
		m.Fills.Uncached(b)
	}
	up := m.Upstreams.Of("docker.io", "anonymous")
	for c := range classes {
		up.Request(c)
	}
	for _, s := range segmentNames {
		m.Space.Evicted(s, 100, time.Minute)
		m.Space.Looked(s, true)
		m.Space.Looked(s, false)
	}
	for name, want := range map[string]int{
		"hubcap_fills_failed_total":      len(fillFailureNames),
		"hubcap_uncached_total":          len(uncachedNames),
		"hubcap_upstream_requests_total": int(classes),
		"hubcap_evictions_total":         len(segmentNames),
		"hubcap_cache_lookups_total":     len(segmentNames) * 2,
		"hubcap_eviction_age_seconds":    len(segmentNames),
	} {
		if got, err := testutil.GatherAndCount(m.registry, name); got != want || err != nil {
			t.Errorf("%s: %d series, want %d, %v", name, got, want, err)
		}
	}
	for _, names := range [][]string{fillFailureNames, uncachedNames, classNames[:], segmentNames} {
		seen := map[string]bool{}
		for _, name := range names {
			if name == "" || seen[name] {
				t.Errorf("%q is empty or twice in %q", name, names)
			}
			seen[name] = true
		}
	}
}

func TestGaugesComeBackToNothing(t *testing.T) {
	m := New()
	m.Requests.Started()
	m.Requests.Done("blob", "hit", 0, 0)
	if g := testutil.ToFloat64(m.Requests.running); g != 0 {
		t.Errorf("requests running: %v", g)
	}
}

func TestClassOf(t *testing.T) {
	for status, want := range map[int]Class{
		200: ClassSuccess, 206: ClassSuccess, 307: ClassRedirect, 401: ClassClientError, 404: ClassClientError,
		429: ClassLimited, 500: ClassServerError, 503: ClassServerError,
	} {
		if got := ClassOf(status); got != want {
			t.Errorf("ClassOf(%d) = %s, want %s", status, got, want)
		}
	}
}

// TestStatesAreReadAtTheScrape shows that a watched state has the value that it
// is given at each scrape, as a gauge or a counter, and that states that are
// not watched are not exported.
func TestStatesAreReadAtTheScrape(t *testing.T) {
	m := New()
	read := 0
	m.Watch(func(set Set) {
		read++
		set(CacheBudget, float64(1000*read))
		set(CacheBytes, 1, "index")
		set(CacheBytes, 4, "small")
		set(Scrubbed, 7)
	}, CacheBudget, CacheBytes, Scrubbed)
	scrape(t, m)
	body := scrape(t, m)
	for _, line := range []string{
		`hubcap_cache_budget_bytes 2000`, `hubcap_cache_bytes{what="index"} 1`, `hubcap_cache_bytes{what="small"} 4`,
		`# TYPE hubcap_cache_bytes gauge`, `# TYPE hubcap_scrubbed_bytes_total counter`, `hubcap_scrubbed_bytes_total 7`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	if strings.Contains(body, "hubcap_cache_objects") {
		t.Error("a state is exported that is not watched")
	}
}

func TestLookupsAndAgesBySegment(t *testing.T) {
	m := New()
	for _, line := range []string{ // from the first scrape on, so that rates know where they begin
		`hubcap_cache_lookups_total{result="hit",segment="small"} 0`, `hubcap_cache_lookups_total{result="miss",segment="large"} 0`,
		`hubcap_eviction_age_seconds_count{segment="small"} 0`, `hubcap_eviction_age_seconds_count{segment="large"} 0`,
	} {
		if !strings.Contains(scrape(t, m), line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	for range 3 {
		m.Space.Looked("small", true)
	}
	m.Space.Looked("small", false)
	m.Space.Looked("large", false)
	m.Space.Looked("large", false)
	m.Space.Evicted("small", 1, 0)
	m.Space.Evicted("large", 1, 30*time.Second)
	m.Space.Evicted("large", 1, 89*24*time.Hour)
	m.Space.Evicted("large", 1, 10*365*24*time.Hour)
	body := scrape(t, m)
	for _, line := range []string{
		`hubcap_cache_lookups_total{result="hit",segment="small"} 3`, `hubcap_cache_lookups_total{result="miss",segment="small"} 1`,
		`hubcap_cache_lookups_total{result="hit",segment="large"} 0`, `hubcap_cache_lookups_total{result="miss",segment="large"} 2`,
		`hubcap_eviction_age_seconds_bucket{segment="small",le="60"} 1`,
		`hubcap_eviction_age_seconds_bucket{segment="large",le="60"} 1`,
		`hubcap_eviction_age_seconds_bucket{segment="large",le="5.184e+06"} 1`, // 60 days
		`hubcap_eviction_age_seconds_bucket{segment="large",le="7.776e+06"} 2`, // 90
		`hubcap_eviction_age_seconds_bucket{segment="large",le="+Inf"} 3`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
}

// TestUpstreamsOfOnePattern: the hosts behind a pattern share its series. The
// limit that was stated last counts, and circuits are added up.
func TestUpstreamsOfOnePattern(t *testing.T) {
	m := New()
	up := func(remaining int, stated time.Time) func() UpstreamStates {
		return func() UpstreamStates {
			return UpstreamStates{
				Limits:   []PullLimit{{Upstream: "*.pkg.dev", Identity: "anonymous", Limit: -1, Remaining: remaining, Exhausted: -1, Stated: stated}},
				Circuits: []Circuit{{"*.pkg.dev", "registry", "open"}},
			}
		}
	}
	m.Upstreams.Watch(up(2, time.Unix(2, 0)))
	m.Upstreams.Watch(up(3, time.Unix(3, 0)))
	m.Upstreams.Watch(up(-1, time.Time{}))
	body := scrape(t, m)
	for _, line := range []string{
		`hubcap_upstream_ratelimit_remaining{identity="anonymous",upstream="*.pkg.dev"} 3`,
		`hubcap_upstream_ratelimit_exhausted_seconds{identity="anonymous",upstream="*.pkg.dev"} +Inf`,
		`hubcap_upstream_circuits{role="registry",state="open",upstream="*.pkg.dev"} 3`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no %s in %s", line, body)
		}
	}
	if strings.Contains(body, "hubcap_upstream_ratelimit_limit{") || strings.Contains(body, "window_seconds{") {
		t.Error("a limit that was not stated is exported")
	}
}

// TestFamiliesAreComplete compares the documented metrics with those that are
// registered. A metric that is missing needs a series in sample.
func TestFamiliesAreComplete(t *testing.T) {
	families, err := Families()
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, f := range families {
		documented[f.Name] = true
	}
	m := New()
	descs := make(chan *prometheus.Desc, 1000)
	m.registry.Describe(descs)
	close(descs)
	for d := range descs {
		name := regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1]
		if strings.HasPrefix(name, namespace+"_") && !documented[name] {
			t.Errorf("%s is registered and not documented", name)
		}
	}
	if !documented["hubcap_cache_bytes"] {
		t.Error("the ledger's figures are not documented")
	}
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// TestAnswers: the series of each answer are there before the first one, the
// time to the first byte is observed for content only, and an answer that nobody
// expected is counted too.
func TestAnswers(t *testing.T) {
	m := New()
	body := scrape(t, m)
	for _, line := range []string{
		`hubcap_requests_total{kind="manifest",result="limited"} 0`, `hubcap_client_bytes_total{result="stale"} 0`,
		`hubcap_first_byte_seconds_count{kind="blob",result="uncached"} 0`, `hubcap_restricted_requests_total{view="hidden"} 0`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	for _, a := range []answer{{"blob", "hit"}, {"blob", "refused"}, {"ping", "uncached"}} {
		m.Requests.Started()
		m.Requests.Done(a.kind, a.result, 7, time.Second)
	}
	body = scrape(t, m)
	for _, line := range []string{
		`hubcap_requests_total{kind="blob",result="hit"} 1`, `hubcap_requests_total{kind="blob",result="refused"} 1`,
		`hubcap_requests_total{kind="ping",result="uncached"} 1`, `hubcap_client_bytes_total{result="uncached"} 7`,
		`hubcap_first_byte_seconds_count{kind="blob",result="hit"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	if strings.Contains(body, `hubcap_first_byte_seconds_count{kind="blob",result="refused"}`) {
		t.Error("the first byte of an error is observed")
	}
}

// TestTotals shows that the totals count what comes from registries, and neither
// errors nor hubcap's own pages.
func TestTotals(t *testing.T) {
	m := New()
	for _, a := range []answer{{"blob", "hit"}, {"blob", "joined"}, {"manifest", "stale"}, {"manifest", "not_found"}, {"blob", "failed"}, {"other", "local"}} {
		m.Requests.Started()
		m.Requests.Done(a.kind, a.result, 100, time.Second)
	}
	got, ok := m.Totals()
	if want := (Totals{ClientBytes: 300, Requests: 4, Cached: 3, Joined: 1, Stale: 1}); !ok || got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
