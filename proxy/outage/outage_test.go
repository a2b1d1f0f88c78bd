package outage

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
	"hubcap/metrics"
	"hubcap/proxy/images"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

// site plays the images and what fetches them.
type site struct {
	clock   *testkit.Clock
	walks   int
	summary images.Summary
	rows    []images.Image
	fetched []string
	err     error
}

func (s *site) Walk(terms images.Terms) (images.Summary, []images.Image) {
	s.walks++
	s.summary.Days, s.summary.Checked = terms.Days, s.clock.Now()
	return s.summary, s.rows
}

func (s *site) Image(r reference.Reference) (images.Image, bool) {
	for _, row := range s.rows {
		if row.Ref == r.String() {
			return row, true
		}
	}
	return images.Image{}, false
}

func (s *site) Wants(reference.Reference) []string {
	return []string{"windows(10.0.17763)/amd64", "linux/arm64/v8"}
}

// fetcher is the site as a Fetcher: what it fetches is ready then.
type fetcher struct{ *site }

func (f fetcher) Image(_ context.Context, ref reference.Reference, req warm.Request, _ func(warm.Progress)) (warm.Result, error) {
	if req.KeepPulls != keptPulls {
		return warm.Result{}, errors.New("no pulls are kept")
	}
	f.fetched = append(append(f.fetched, req.Platforms...), ref.String())
	if f.err != nil {
		return warm.Result{}, f.err
	}
	for i := range f.rows {
		f.rows[i].Outage, f.rows[i].Platforms = images.Ready, nil
	}
	return warm.Result{Missing: 2, Fetched: 30, Pulls: 1}, nil
}

func (fetcher) Running(map[digest.Digest]bool) (bytes, rate int64)    { return 0, 0 }
func (fetcher) CountPulls(t *jobs.Task, _ reference.Reference, n int) { t.Pulls("docker.io", n, 17) }

func newReadiness(t *testing.T, nightly bool) (*Readiness, *site) {
	t.Helper()
	s := &site{clock: testkit.NewClock(time.Date(2030, 1, 1, 12, 0, 0, 0, time.Local))}
	list := jobs.New(jobs.Options{AtATime: 1, Kept: 10, Waiting: 10, Now: s.clock.Now, Metrics: metrics.New().Jobs, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(list.Close)
	return New(Options{
		Images: s, Fetcher: fetcher{s}, Jobs: list, Days: 30, Nightly: nightly, Known: func() bool { return true }, Now: s.clock.Now,
		After: func(time.Duration) <-chan time.Time { return nil }, Log: slog.New(slog.DiscardHandler),
	}), s
}

// digestOf returns a digest of one letter.
func digestOf(letter string) digest.Digest { return digest.FromString(letter) }

// TestReport: a report is of now, or of some seconds ago, and other days have one of
// their own.
func TestReport(t *testing.T) {
	r, s := newReadiness(t, false)
	if got := r.Status(); !got.Checked.IsZero() || got.Days != 30 {
		t.Errorf("%+v", got)
	}
	for i, step := range []struct {
		days, walks int
		after       time.Duration
	}{{0, 1, 0}, {30, 1, 9 * time.Second}, {0, 2, time.Second}, {7, 3, 0}, {7, 3, time.Second}, {0, 4, 0}} {
		s.clock.Advance(step.after)
		r.Report(images.Terms{Days: step.days})
		if s.walks != step.walks {
			t.Errorf("step %d: %d walks, want %d", i, s.walks, step.walks)
		}
	}
	if got := r.Status(); got.Days != 30 {
		t.Errorf("the status is of %d days", got.Days)
	}
}

// TestShort: since when too few images are ready.
func TestShort(t *testing.T) {
	r, s := newReadiness(t, false)
	began := s.clock.Now()
	for i, step := range []struct {
		images, ready int
		short         time.Time
	}{{0, 0, time.Time{}}, {20, 19, time.Time{}}, {20, 18, began.Add(2 * time.Minute)}, {20, 17, began.Add(2 * time.Minute)}, {20, 20, time.Time{}}} {
		s.summary = images.Summary{Images: step.images, Ready: step.ready, Gaps: step.images - step.ready}
		r.Report(images.Terms{})
		if got := r.Status(); !got.Short.Equal(step.short) {
			t.Errorf("step %d: short since %v, want %v", i, got.Short, step.short)
		}
		s.clock.Advance(time.Minute)
	}
}

// rows are images that lack something, with what a repair fetches for each.
var rows = []struct {
	row  images.Image
	want []string // fetched, platforms first
	left string   // why it will not be ready
}{
	{images.Image{Ref: "docker.io/library/a:1", Outage: images.Gaps, State: "following", Platforms: []images.Platform{
		{Digest: digestOf("a"), Wanted: true, Gaps: []images.Gap{{Part: images.LayerPart, Digest: digestOf("l"), Size: 30}}},
		{Digest: digestOf("b"), Gaps: []images.Gap{{Part: images.LayerPart, Digest: digestOf("m"), Size: 70}}},
	}}, []string{"docker.io/library/a@" + digestOf("a").String()}, ""},
	{images.Image{Ref: "docker.io/library/a:2", Outage: images.Gaps, State: "following", Platforms: []images.Platform{
		{Digest: digestOf("i"), Wanted: true, Gaps: []images.Gap{{Part: images.ManifestPart, Digest: digestOf("i"), Size: -1}}},
	}}, []string{"windows/amd64", "linux/arm64/v8", "docker.io/library/a@" + digestOf("i").String()}, ""},
	{images.Image{Ref: "docker.io/library/a:3", Outage: images.Gaps, State: "following", Platforms: []images.Platform{
		{Platform: "linux/amd64", Digest: digestOf("a"), Wanted: true, Gaps: []images.Gap{{Part: images.LayerPart, Digest: digestOf("h"), Size: 1 << 40, Why: images.TooLarge}}},
	}}, nil, "linux/amd64 has a layer above HUBCAP_MAX_BLOB"},
	{images.Image{Ref: "docker.io/library/a:4", Outage: images.Gaps, Why: "the tag is not known"}, []string{"windows/amd64", "linux/arm64/v8", "docker.io/library/a:4"}, ""},
	{images.Image{Ref: "docker.io/library/a:5", Outage: images.Refused, State: "following", Why: "stale"}, nil, "stale"},
}

// TestRepair: what is missing is fetched by digest, and what cannot be repaired is
// named. A dry run fetches nothing.
func TestRepair(t *testing.T) {
	for _, tc := range rows {
		t.Run(tc.row.Ref, func(t *testing.T) {
			r, s := newReadiness(t, false)
			s.rows = []images.Image{tc.row}
			dry, err := r.Repair(true)
			if err != nil || dry.Job != nil || len(s.fetched) > 0 || (len(dry.Left) == 1) != (tc.left != "") {
				t.Fatalf("%+v, %v; %v was fetched", dry, err, s.fetched)
			}
			if tc.left != "" {
				if dry.Left[0] != (Left{tc.row.Ref, tc.left}) || dry.Images != 0 {
					t.Errorf("%+v", dry)
				}
				return
			}
			did, err := r.Repair(false)
			if err != nil || did.Job == nil {
				t.Fatalf("%+v, %v", did, err)
			}
			job := ended(t, r, did.Job.ID)
			if got := s.fetched; len(got) != len(tc.want) || got[len(got)-1] != tc.want[len(got)-1] || got[0] != tc.want[0] {
				t.Errorf("%v was fetched, want %v", got, tc.want)
			}
			if job.State != jobs.Done || job.Items[0].Result != "repaired" || job.Done != 30 || job.Pulls[0].Left != 17 {
				t.Errorf("%+v", job)
			}
		})
	}
}

// ended returns a job once it is over.
func ended(t *testing.T, r *Readiness, id string) jobs.Job {
	t.Helper()
	for end := time.Now().Add(testkit.Patience); ; time.Sleep(time.Millisecond) {
		job, err := r.o.Jobs.Get(id)
		if err != nil || time.Now().After(end) {
			t.Fatal(job, err)
		}
		if job.State.Over() {
			return job
		}
	}
}

// TestRepairFails: the error of what cannot be fetched is the item's, and the rest
// goes on.
func TestRepairFails(t *testing.T) {
	r, s := newReadiness(t, false)
	s.rows, s.err = []images.Image{rows[0].row, rows[1].row}, errors.New("no pulls left")
	did, err := r.Repair(false)
	if err != nil {
		t.Fatal(err)
	}
	if did.Images != 2 || did.Objects != 2 || did.Bytes != 30 || !did.Unknown || len(did.Pulls) != 1 || did.Pulls[0] != (Pulls{"docker.io", 1}) {
		t.Errorf("%+v", did)
	}
	if job := ended(t, r, did.Job.ID); job.State != jobs.Failed || len(job.Items) != 2 || job.Items[1].Result != "failed: no pulls left" {
		t.Errorf("%+v", job)
	}
}

// TestNightly: once a night, if that is configured.
func TestNightly(t *testing.T) {
	for _, nightly := range []bool{true, false} {
		r, s := newReadiness(t, nightly)
		begun := 0
		for range 2 * 24 * 12 {
			s.rows = []images.Image{rows[0].row}
			r.nightly()
			for _, job := range r.o.Jobs.All() {
				ended(t, r, job.ID)
			}
			begun = len(r.o.Jobs.All())
			s.clock.Advance(CheckEvery)
		}
		if want := map[bool]int{true: 2, false: 0}[nightly]; begun != want {
			t.Errorf("nightly %v: %d repairs in two days, want %d", nightly, begun, want)
		}
	}
}
