package warm_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
	"hubcap/proxy/warm"
)

// ended waits for the end of a job.
func (r *rig) ended(id string) (j jobs.Job) {
	r.t.Helper()
	eventually(r.t, "the job ends", func() bool {
		var err error
		j, err = r.Jobs.Get(id)
		must(r.t, err)
		return j.State.Over()
	})
	return j
}

func refs(t testing.TB, names ...string) (all []reference.Reference) {
	for _, name := range names {
		all = append(all, ref(t, name))
	}
	return all
}

// TestList fetches several images in one job: one that is held, one that is not, one
// that does not exist. The estimate before says the same as far as it can.
func TestList(t *testing.T) {
	r := newRig(t, rigOptions{hub: fakehub.Options{RateLimit: 100}})
	for i := range 2 {
		r.hub.Image(repo, fmt.Sprint(i), fakehub.RandomBlob(uint64(i), 100*kib))
	}
	r.image("demo:0", warm.Request{})
	list := refs(t, "demo:0", "demo:1", "demo:gone")
	e, err := r.Warm.Estimate(t.Context(), list, warm.Request{})
	must(t, err)
	if e.Items[0].Result != "held already" || e.Items[1].Result != "would be fetched" || e.Items[2].OK || e.Pulls != 1 || !e.Unknown {
		t.Errorf("%+v", e)
	}
	j, err := r.Warm.Start(jobs.Warm, list, warm.Request{})
	must(t, err)
	j = r.ended(j.ID)
	slices.SortFunc(j.Items, func(a, b jobs.Item) int { return strings.Compare(a.Name, b.Name) })
	if j.State != jobs.InPart || len(j.Items) != 3 || j.Items[0].Result != "held already" || j.Items[0].Bytes < 100*kib ||
		j.Items[1].Result != "fetched" || j.Items[1].Objects != 3 || j.Items[2].Result != "failed: manifest unknown at docker.io" {
		t.Errorf("%+v", j)
	}
	if len(j.Errors) != 1 || j.Errors[0] != "docker.io/library/demo:gone: failed: manifest unknown at docker.io" {
		t.Errorf("%q", j.Errors)
	}
	if len(j.Pulls) != 1 || j.Pulls[0].Used != 1 || j.Pulls[0].Upstream != "docker.io" || j.Pulls[0].Left < 96 {
		t.Errorf("%+v", j.Pulls)
	}
	if j.Objects != 6 || j.ObjectsTotal != 6 || j.Done != j.Total || j.Done < 200*kib {
		t.Errorf("%+v", j)
	}
	if _, err := r.Warm.Start(jobs.Warm, nil, warm.Request{}); !errors.Is(err, warm.ErrNothing) {
		t.Errorf("%v", err)
	}
	if _, err := r.Warm.Start(jobs.Warm, list, warm.Request{Platforms: []string{"a/b/c/d"}}); err == nil {
		t.Error("a job for no platform")
	}
}

// TestCancel: a job that fetches is seen doing it, and ends when it is cancelled.
func TestCancel(t *testing.T) {
	r := newRig(t, rigOptions{hub: fakehub.Options{ConnBandwidth: mib}})
	r.hub.Image(repo, "slow", fakehub.RandomBlob(1, 100*mib))
	j, err := r.Warm.Start(jobs.Warm, refs(t, "demo:slow"), warm.Request{})
	must(t, err)
	eventually(t, "bytes come", func() bool {
		now, err := r.Jobs.Get(j.ID)
		must(t, err)
		return now.State == jobs.Running && now.Total > 100*mib && now.Done > 100*kib && now.Rate > 0 && now.Left != nil
	})
	must(t, r.Jobs.Cancel(j.ID))
	if j = r.ended(j.ID); j.State != jobs.Cancelled {
		t.Errorf("%+v", j)
	}
}

// TestSchedule runs at once and then regularly, also after a restart, and not while
// the last run is on; a deleted one does not.
func TestSchedule(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	r.hub.Image(repo, "daily", fakehub.RandomBlob(1, kib))
	if _, err := r.Warm.AddSchedule(refs(t, "demo:daily"), nil, time.Second); !errors.Is(err, warm.ErrEvery) {
		t.Errorf("%v", err)
	}
	s, err := r.Warm.AddSchedule(refs(t, "demo:daily"), []string{"all"}, 24*time.Hour)
	must(t, err)
	last := func() (j jobs.Job) {
		t.Helper()
		eventually(t, "it runs", func() bool { return r.Warm.Schedules()[0].Job != "" })
		return r.ended(r.Warm.Schedules()[0].Job)
	}
	if j := last(); j.State != jobs.Done || j.What != "docker.io/library/demo:daily" {
		t.Errorf("%+v", j)
	}
	count := func() int { return len(r.Jobs.All()) }
	r.Warm.RunDue()
	r.clock.Advance(23 * time.Hour)
	r.Warm.RunDue()
	if n := count(); n != 1 {
		t.Errorf("%d runs on the first day", n)
	}
	moved := r.hub.Image(repo, "daily", fakehub.RandomBlob(2, kib))
	r.clock.Advance(time.Hour)
	r.Warm.RunDue()
	if last(); count() != 2 {
		t.Errorf("%d runs on the second day", count())
	}
	if got := r.image("demo:daily", warm.Request{}); got.Digest != moved.Manifest.Digest || got.Missing != 0 {
		t.Errorf("%+v", got)
	}
	r.clock.Advance(-48 * time.Hour) // the clock is set back
	r.Warm.RunDue()
	if count() != 2 {
		t.Error("a clock that is set back starts a run")
	}
	r.clock.Advance(48 * time.Hour)

	r.Stop()
	r.start(dir, rigOptions{})
	all := r.Warm.Schedules()
	if len(all) != 1 || all[0].ID != s.ID || !slices.Equal(all[0].Platforms, []string{"all"}) || all[0].Next.Sub(r.clock.Now()) != 24*time.Hour {
		t.Fatalf("after a restart: %+v", all)
	}
	r.clock.Advance(24 * time.Hour)
	r.Warm.RunDue()
	last()
	must(t, r.Warm.DeleteSchedule(s.ID))
	if err := r.Warm.DeleteSchedule(s.ID); !errors.Is(err, warm.ErrUnknownSchedule) {
		t.Errorf("%v", err)
	}
	r.clock.Advance(48 * time.Hour)
	r.Warm.RunDue()
	if count() != 1 || len(r.Warm.Schedules()) != 0 {
		t.Errorf("%d runs, %+v", count(), r.Warm.Schedules())
	}
}

// TestScheduleOverlap: a run that has not ended is not joined by another.
func TestScheduleOverlap(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.hub.Image(repo, "slow", fakehub.RandomBlob(1, kib))
	release := make(chan struct{})
	r.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
		if q.Kind == fakehub.KindManifest && q.Method == http.MethodGet {
			<-release
		}
		return nil
	})
	_, err := r.Warm.AddSchedule(refs(t, "demo:slow"), nil, time.Hour)
	must(t, err)
	eventually(t, "it runs", func() bool { return len(r.Jobs.All()) == 1 })
	r.clock.Advance(time.Hour)
	r.Warm.RunDue()
	if n := len(r.Jobs.All()); n != 1 {
		t.Errorf("%d jobs", n)
	}
	close(release)
	r.ended(r.Jobs.All()[0].ID)
	r.clock.Advance(time.Hour)
	r.Warm.RunDue()
	if n := len(r.Jobs.All()); n != 2 {
		t.Errorf("%d jobs", n)
	}
}
