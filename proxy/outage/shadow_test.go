package outage

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

var (
	client = netip.MustParseAddr("10.1.2.7")
	other  = netip.MustParseAddr("10.1.2.8")
)

// rig is a drill with a clock.
type rig struct {
	*Drill
	m     *metrics.Metrics
	clock *testkit.Clock
}

func newRig() rig {
	m, clock := metrics.New(), testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	return rig{NewDrill(clock.Now, m.Outage), m, clock}
}

// counted returns how many pulls have survived and failed.
func (r rig) counted() string {
	survived, _ := r.m.Value("hubcap_outage_shadow_pulls_total", "result", "survived")
	failed, _ := r.m.Value("hubcap_outage_shadow_pulls_total", "result", "failed")
	return fmt.Sprintf("%.0f survived, %.0f failed", survived, failed)
}

func (r rig) tag(tag string, held bool) {
	r.Answered(Answer{Client: client, Registry: "docker.io", Repository: "library/a", Tag: tag, Manifest: true, Held: held})
}

func (r rig) digest(held bool) {
	r.Answered(Answer{Client: client, Registry: "docker.io", Repository: "library/a", Manifest: true, Held: held})
}

func (r rig) blob(held bool) {
	r.Answered(Answer{Client: client, Registry: "docker.io", Repository: "library/a", Held: held})
}

// TestDrill: each pull is counted once, however its client asks.
func TestDrill(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(r rig)
		want string
	}{
		"all is held":                     {func(r rig) { r.tag("1", true); r.blob(true); r.blob(true) }, "1 survived, 0 failed"},
		"the manifest is missing":         {func(r rig) { r.tag("1", false); r.blob(true) }, "0 survived, 1 failed"},
		"a layer is missing":              {func(r rig) { r.tag("1", true); r.blob(true); r.blob(false); r.blob(true) }, "0 survived, 1 failed"},
		"a platform is missing":           {func(r rig) { r.tag("1", true); r.digest(false); r.blob(true) }, "0 survived, 1 failed"},
		"as dockerd, twice":               {func(r rig) { r.tag("1", true); r.digest(true); r.tag("1", true); r.digest(true); r.blob(true) }, "1 survived, 0 failed"},
		"by digest":                       {func(r rig) { r.digest(true); r.digest(true); r.blob(true) }, "1 survived, 0 failed"},
		"a client that has the layers":    {func(r rig) { r.tag("1", true) }, "1 survived, 0 failed"},
		"a layer without a pull":          {func(r rig) { r.blob(false) }, "0 survived, 0 failed"},
		"two tags, and a layer is lost":   {func(r rig) { r.tag("1", true); r.tag("2", true); r.blob(false) }, "0 survived, 2 failed"},
		"again later, what failed before": {func(r rig) { r.tag("1", false); r.clock.Advance(time.Minute); r.tag("1", true); r.blob(true) }, "1 survived, 1 failed"},
		"two clients": {func(r rig) {
			r.tag("1", true)
			r.Answered(Answer{Client: other, Registry: "docker.io", Repository: "library/a", Tag: "1", Manifest: true})
		}, "1 survived, 1 failed"},
		"very many tags": {func(r rig) {
			for i := range 1000 {
				r.tag(fmt.Sprint(i), true)
			}
		}, "1000 survived, 0 failed"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			tc.do(r)
			r.clock.Advance(quietFor)
			r.sweep(false)
			if got := r.counted(); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			r.sweep(true)
			if got := r.counted(); got != tc.want {
				t.Errorf("counted again: %s", got)
			}
		})
	}
}

// TestDrillWaits: a pull is not counted while its client is at it, and the memory is
// bounded.
func TestDrillWaits(t *testing.T) {
	r := newRig()
	r.tag("1", true)
	for range 10 {
		r.clock.Advance(quietFor - time.Second)
		r.sweep(false)
		if got := r.counted(); got != "0 survived, 0 failed" {
			t.Fatal(got)
		}
		r.blob(true)
	}
	r.sweep(true)
	if got := r.counted(); got != "1 survived, 0 failed" {
		t.Error(got)
	}
	for i := range 100 * maxVisits {
		r.Answered(Answer{Client: client, Registry: "docker.io", Repository: fmt.Sprint(i), Tag: "1", Manifest: true, Held: true})
	}
	for i := range r.shards {
		if n := len(r.shards[i].visits); n > maxVisits {
			t.Errorf("%d visits in a shard", n)
		}
	}
}

// BenchmarkDrill is what the drill adds to the answer of a warm manifest.
func BenchmarkDrill(b *testing.B) {
	r := newRig()
	a := Answer{Client: client, Registry: "docker.io", Repository: "library/a", Tag: "1", Manifest: true, Held: true}
	b.ReportAllocs()
	for b.Loop() {
		r.Answered(a)
	}
}
