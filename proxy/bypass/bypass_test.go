package bypass

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// rig is a Monitor with a clock, and what can be seen of it.
type rig struct {
	*Monitor
	t       *testing.T
	clock   *testkit.Clock
	metrics *metrics.Metrics
	log     testkit.Log
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, clock: testkit.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)), metrics: metrics.New()}
	r.Monitor = New(Options{Now: r.clock.Now, Metrics: r.metrics, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	return r
}

func (r *rig) value(name string, labels ...string) int {
	v, _ := r.metrics.Value("hubcap_"+name, labels...)
	return int(v)
}

func (r *rig) suspected(f Family, why Why) int {
	return r.value("bypass_suspected_total", "family", f.String(), "why", why.String())
}

// wantOutcomes checks how many have left and stayed.
func (r *rig) wantOutcomes(f Family, left, stayed int) {
	r.t.Helper()
	gotLeft := r.value("bypass_outcomes_total", "family", f.String(), "outcome", "left")
	gotStayed := r.value("bypass_outcomes_total", "family", f.String(), "outcome", "stayed")
	if gotLeft != left || gotStayed != stayed {
		r.t.Errorf("%s: %d have left and %d stayed, want %d and %d", f, gotLeft, gotStayed, left, stayed)
	}
}

var (
	one   = netip.MustParseAddr("10.0.0.1")
	other = netip.MustParseAddr("10.0.0.2")
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// tag is an answer to a GET of a tag that failed.
func tag(client netip.Addr, f Family, change ...func(*Answer)) Answer {
	a := Answer{
		Client: client, Family: f, Kind: Manifest, Registry: "docker.io", Repository: "library/nginx", Tag: "1.27", NS: f == Other,
		Status: 503, Whole: true, Why: Failed,
	}
	for _, c := range change {
		c(&a)
	}
	return a
}

func served(a *Answer)        { a.Status, a.Why = 200, None }
func head(a *Answer)          { a.Head = true }
func blobA(a *Answer)         { a.Kind, a.Tag, a.Digest = Blob, "", digestA }
func blobB(a *Answer)         { a.Kind, a.Tag, a.Digest = Blob, "", digestB }
func manifestA(a *Answer)     { a.Tag, a.Digest = "", digestA }
func otherTag(a *Answer)      { a.Tag = "1.28" }
func otherImage(a *Answer)    { a.Repository = "library/redis" }
func aborted(a *Answer)       { a.Whole = false }
func why(w Why) func(*Answer) { return func(a *Answer) { a.Why = w } }

func TestFamilyOf(t *testing.T) {
	for agent, want := range map[string]Family{
		"docker/20.10.24+dfsg1 go/go1.19.8 git-commit/5d6db84 kernel/6.1 os/linux arch/amd64 UpstreamClient(Docker-Client/28.2.2 \\(linux\\))": Docker,
		"containerd/1.6.20~ds1":                           Containerd,
		"containerd/2.4.2+unknown":                        Containerd,
		"buildkit/v0.25":                                  BuildKit,
		"containers/5.24.1 (github.com/containers/image)": Containers,
		"skopeo/1.9.3":                                    Containers,
		"Buildah/1.28.2":                                  Containers,
		"cri-o/1.30":                                      Containers,
		"crane/v0.22.1":                                   Other,
		"Helm/3.22.0":                                     Other,
		"dockerish/1":                                     Other,
		"curl/7.88.1":                                     Other,
		"":                                                Other,
		"Mozilla/5.0 (docker)":                            Other,
	} {
		if got := FamilyOf(agent); got != want {
			t.Errorf("%q: %s, want %s", agent, got, want)
		}
	}
}

// TestWhatMakesWhomLeave is the table of deploy/docs/operation.md.
func TestWhatMakesWhomLeave(t *testing.T) {
	t.Parallel()
	all := []Family{Other, Docker, Containerd, BuildKit, Containers}
	for name, tt := range map[string]struct {
		change func(*Answer)
		leave  []Family
	}{
		"a manifest is served":    {served, nil},
		"a manifest fails":        {why(Failed), all},
		"a manifest is limited":   {why(Limited), []Family{Other, Docker, Containerd, BuildKit}},
		"an image is incomplete":  {why(Incomplete), all},
		"not allowed":             {why(NotAllowed), all},
		"unknown registry":        {why(UnknownRegistry), all},
		"not found":               {why(NotFound), all},
		"a manifest is cut":       {why(Cut), all},
		"a blob fails":            {blobA, []Family{Other, Docker, Containerd, BuildKit}},
		"a blob is cut":           {func(a *Answer) { blobA(a); a.Why = Cut }, []Family{Other, Docker, Containerd, BuildKit}},
		"a list fails":            {func(a *Answer) { a.Kind = List }, nil},
		"the ping is refused":     {func(a *Answer) { a.Kind, a.Why = Ping, NotAllowed }, []Family{Containers}},
		"by the box's own name":   {func(a *Answer) { a.Named, a.NS = true, false }, []Family{Containers}},
		"BuildKit names it twice": {func(a *Answer) { a.Named, a.NS = true, true }, all},
		"without ns":              {func(a *Answer) { a.NS = false }, []Family{Docker, Containerd, BuildKit, Containers}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for _, f := range all {
				a := tag(one, f, tt.change)
				r.Answered(a)
				want := 0
				for _, l := range tt.leave {
					if l == f {
						want = 1
					}
				}
				if got := r.suspected(f, a.Why); got != want {
					t.Errorf("%s: suspected %d times, want %d", f, got, want)
				}
			}
		})
	}
}

// TestOnceIn10Seconds counts a client, family, repository and reference once.
func TestOnceIn10Seconds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want := func(n int) {
		t.Helper()
		if got := r.suspected(Docker, Failed); got != n {
			t.Errorf("suspected %d times, want %d", got, n)
		}
	}
	r.Answered(tag(one, Docker, head))
	r.Answered(tag(one, Docker))
	want(1)
	r.clock.Advance(again - 1)
	r.Answered(tag(one, Docker))
	want(1)
	r.clock.Advance(1)
	r.Answered(tag(one, Docker))
	want(2)
	r.Answered(tag(other, Docker))
	r.Answered(tag(one, Docker, otherTag))
	r.Answered(tag(one, Docker, otherImage))
	want(5)
	r.Answered(tag(one, Containerd))
	want(5)

	// The answer itself may take long: what counts is when the client asked again.
	r.clock.Advance(time.Minute)
	r.Answered(tag(one, Docker))
	r.clock.Advance(25 * time.Second)
	r.Answered(tag(one, Docker, func(a *Answer) { a.Took = 25 * time.Second }))
	want(6)
	// dockerd's pauses before it gives up on a layer.
	for _, pause := range []time.Duration{0, 5, 10, 15, 20} {
		r.clock.Advance(pause * time.Second)
		r.Answered(tag(one, Docker, blobA))
	}
	want(7)
	r.clock.Advance(layerAgain)
	r.Answered(tag(one, Docker, blobA))
	want(8)
	r.clock.Advance(-time.Hour) // the clock is set back
	r.Answered(tag(one, Docker))
	want(9)
}

// TestLeftAndStayed decides suspicions by what comes next.
func TestLeftAndStayed(t *testing.T) {
	t.Parallel()
	type next struct {
		after  time.Duration
		answer Answer
	}
	const soon = time.Second
	for name, tt := range map[string]struct {
		first  Answer
		next   []next
		stayed bool
	}{
		"nothing comes":                    {first: tag(one, Docker)},
		"a blob of the image":              {tag(one, Docker), []next{{soon, tag(one, Docker, blobA, served)}}, true},
		"at the last moment":               {tag(one, Docker), []next{{decideAfter - 1, tag(one, Docker, blobA, served)}}, true},
		"too late":                         {tag(one, Docker), []next{{decideAfter, tag(one, Docker, blobA, served)}}, false},
		"the same tag":                     {tag(one, Docker, head), []next{{soon, tag(one, Docker, served)}}, true},
		"the same tag, nothing new":        {tag(one, Docker, head), []next{{soon, tag(one, Docker, head, served)}}, true},
		"a manifest by digest":             {tag(one, Containerd, head), []next{{soon, tag(one, Containerd, manifestA, served)}}, true},
		"another tag":                      {tag(one, Docker), []next{{soon, tag(one, Docker, otherTag, served)}}, false},
		"another image":                    {tag(one, Docker), []next{{soon, tag(one, Docker, otherImage, blobA, served)}}, false},
		"another client":                   {tag(one, Docker), []next{{soon, tag(other, Docker, blobA, served)}}, false},
		"another program there":            {tag(one, Docker), []next{{soon, tag(one, Containerd, blobA, served)}}, false},
		"it fails again":                   {tag(one, Docker), []next{{soon, tag(one, Docker)}}, false},
		"only its size":                    {tag(one, Docker), []next{{soon, tag(one, Docker, blobA, head, served)}}, false},
		"it gives up":                      {tag(one, Docker), []next{{soon, tag(one, Docker, blobA, served, aborted)}}, false},
		"the blob that failed":             {tag(one, Containerd, blobA), []next{{soon, tag(one, Containerd, blobA, served)}}, true},
		"the blob that was cut":            {tag(one, Docker, blobA, why(Cut)), []next{{5 * time.Second, tag(one, Docker, blobA, served)}}, true},
		"another blob":                     {tag(one, Containerd, blobA), []next{{soon, tag(one, Containerd, blobB, served)}}, false},
		"another blob, and the manifest":   {tag(one, Docker, blobA), []next{{soon, tag(one, Docker, served)}}, false},
		"a blob that was under way before": {tag(one, Docker), []next{{soon, tag(one, Docker, blobB, served, func(a *Answer) { a.Took = 2 * soon })}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.Answered(tt.first)
			for _, n := range tt.next {
				r.clock.Advance(n.after)
				r.Answered(n.answer)
			}
			r.clock.Advance(decideAfter + again)
			r.decide()
			family := tt.first.Family
			if tt.stayed {
				r.wantOutcomes(family, 0, 1)
			} else {
				r.wantOutcomes(family, 1, 0)
			}
			if warned := strings.Contains(r.log.String(), "level=WARN"); warned == tt.stayed {
				t.Errorf("the log: %s", r.log.String())
			}
			for _, c := range r.Clients() {
				want := int64(0)
				if !tt.stayed && c.Address == one && c.Family == family.String() {
					want = 1
				}
				if c.Left != want || c.LastLeft.IsZero() != (want == 0) {
					t.Errorf("%+v, want %d left", c, want)
				}
			}
		})
	}
}

// TestNotFoundIsApart counts what the registry does not have either, and decides nothing.
func TestNotFoundIsApart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.Answered(tag(one, Docker, why(NotFound)))
	r.clock.Advance(decideAfter)
	r.decide()
	if n := r.suspected(Docker, NotFound); n != 1 {
		t.Errorf("suspected %d times, want once", n)
	}
	r.wantOutcomes(Docker, 0, 0)
	if r.log.String() != "" {
		t.Errorf("the log: %s", r.log.String())
	}
}

// TestNotAllowed: who may not pull is suspected and is no client.
func TestNotAllowed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.Answered(tag(one, Containers, why(NotAllowed), func(a *Answer) { a.Kind = Ping }))
	r.Answered(tag(netip.Addr{}, Docker, why(NotAllowed)))
	r.clock.Advance(decideAfter)
	if all := r.Clients(); len(all) != 0 {
		t.Errorf("%+v, want no clients", all)
	}
	r.wantOutcomes(Containers, 1, 0)
	r.wantOutcomes(Docker, 1, 0)
}

// TestWarning names who left, once a minute, and how many.
func TestWarning(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lines := func() []string { return strings.Split(strings.TrimSpace(r.log.String()), "\n") }
	r.Answered(tag(one, Docker, why(Limited), func(a *Answer) { a.Status = 429 }))
	for i := range 5 {
		r.clock.Advance(5 * time.Second)
		r.Answered(tag(other, Docker, func(a *Answer) { a.Tag = fmt.Sprint(i) }))
	}
	r.clock.Advance(decideAfter)
	r.decide()
	got := lines()
	if len(got) != 1 {
		t.Fatalf("%q, want one line", got)
	}
	for _, want := range []string{"family=docker", "client=10.0.0.1", "image=docker.io/library/nginx:1.27", `answer="429 limited"`, "since_last_warning=1"} {
		if !strings.Contains(got[0], want) {
			t.Errorf("no %s in %s", want, got[0])
		}
	}
	r.Answered(tag(one, Docker, manifestA))
	r.clock.Advance(decideAfter)
	r.decide()
	if got = lines(); len(got) != 2 || !strings.Contains(got[1], "since_last_warning=6") || !strings.Contains(got[1], "image=docker.io/library/nginx@"+digestA) {
		t.Errorf("%q, want a second line about 6", got)
	}
}

// TestRun decides when nothing else happens: the clients may all have left.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		monitor := New(Options{Now: time.Now, Metrics: m, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go monitor.Run(ctx)
		monitor.Answered(tag(one, Docker))
		time.Sleep(decideAfter + decideEvery)
		synctest.Wait()
		if v, _ := m.Value("hubcap_bypass_outcomes_total", "family", "docker", "outcome", "left"); v != 1 {
			t.Errorf("%v have left, want 1", v)
		}
	})
}

// TestSuspicionsAreBounded has far more clients leave than are remembered.
func TestSuspicionsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = 3 * maxSuspicions
	for i := range n {
		r.Answered(tag(one, Docker, func(a *Answer) { a.Tag = fmt.Sprint(i, strings.Repeat("x", 1<<14)) }))
	}
	if len(r.open) != maxSuspicions || r.counted.Len() != maxSuspicions {
		t.Errorf("%d suspicions and %d keys are kept, want %d", len(r.open), r.counted.Len(), maxSuspicions)
	}
	for _, s := range r.open {
		if len(s.reference) > maxText || len(s.image) > maxText {
			t.Fatalf("texts of %d and %d bytes are kept", len(s.reference), len(s.image))
		}
	}
	r.clock.Advance(decideAfter)
	r.decide()
	r.wantOutcomes(Docker, maxSuspicions, 0)
	if got := r.clients.of(one).suspected.Load(); got != 0 {
		t.Errorf("%d suspicions of the client are left over", got)
	}
}

// TestClients counts distinct addresses, pulls and bytes.
func TestClients(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start := r.clock.Now()
	want := func(hour, day, week int) {
		t.Helper()
		for window, n := range map[string]int{"1h": hour, "1d": day, "7d": week} {
			if got := r.value("clients", "window", window); got != n {
				t.Errorf("%s: %d clients, want %d", window, got, n)
			}
		}
	}
	want(0, 0, 0)
	for i := range 80 {
		r.Answered(tag(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), Containerd, head, served))
	}
	want(80, 80, 80)
	r.clock.Advance(time.Hour + time.Second)
	r.Answered(tag(one, Docker, head, served))
	r.Answered(tag(one, Docker, manifestA, served, func(a *Answer) { a.Bytes = 500 }))
	r.Answered(tag(one, Docker, blobA, served, func(a *Answer) { a.Bytes = 1000 }))
	r.Answered(tag(one, Containers, served))
	r.Answered(tag(one, Containers, head, manifestA, served))
	want(1, 81, 81)
	r.clock.Advance(24*time.Hour + time.Second)
	want(0, 0, 81)
	r.clock.Advance(7 * 24 * time.Hour)
	want(0, 0, 0)
	all := r.Clients()
	at := start.Add(time.Hour + time.Second)
	for i, want := range []Client{
		{Address: one, Family: Docker.String(), Pulls: 1, Bytes: 1500, LastSeen: at},
		{Address: one, Family: Containers.String(), Pulls: 2, LastSeen: at},
		{Address: netip.MustParseAddr("10.0.1.0"), Family: Containerd.String(), Pulls: 1, LastSeen: start},
	} {
		if got := all[i]; !got.LastSeen.Equal(want.LastSeen) || got.Address != want.Address || got.Family != want.Family || got.Pulls != want.Pulls || got.Bytes != want.Bytes {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// TestClientsAreBounded has more addresses than places: those seen last are kept.
func TestClientsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range 4 * sets * ways {
		if i%1000 == 0 {
			r.clock.Advance(time.Second)
		}
		r.Answered(tag(address(i), Containerd, served))
	}
	if n := r.Distinct(time.Hour); n > sets*ways || n < sets*ways*9/10 {
		t.Errorf("%d clients are remembered", n)
	}
	last := 4*sets*ways - 1
	if c := find(r.clients.slots[:], address(last)); c == nil || c.addr != address(last) {
		t.Error("the last client is not remembered")
	}
}

// TestAtOnce has many clients come, leave and stay at once; each counts once.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var all sync.WaitGroup
	for range 4 {
		for i := range 64 {
			all.Go(func() {
				client := netip.AddrFrom4([4]byte{10, 0, 2, byte(i)})
				r.Answered(tag(client, Containerd))
				r.Answered(tag(client, Containerd, blobA, served))
				r.Clients()
			})
		}
	}
	all.Wait()
	if n := r.suspected(Containerd, Failed); n != 64 {
		t.Errorf("suspected %d times, want 64", n)
	}
	r.wantOutcomes(Containerd, 0, 64)
	if n := r.Distinct(time.Hour); n != 64 {
		t.Errorf("%d clients, want 64", n)
	}
}

// TestWarmAnswersAllocateNothing is what an answer costs that makes nobody leave.
func TestWarmAnswersAllocateNothing(t *testing.T) {
	r := newRig(t)
	a := tag(one, Docker, served)
	r.Answered(a)
	if n := testing.AllocsPerRun(1000, func() { r.Answered(a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAnswered(b *testing.B) {
	m := New(Options{Now: time.Now, Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler)})
	a := tag(one, FamilyOf("containerd/2.4.2"), served)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Answered(a)
		}
	})
}
