package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

type rig struct {
	*List
	clock *testkit.Clock
	all   *metrics.Metrics

	mu     sync.Mutex
	states map[string][]State
}

func newRig(t *testing.T, atATime int) *rig {
	r := &rig{clock: testkit.NewClock(time.Unix(1e9, 0)), all: metrics.New(), states: make(map[string][]State)}
	r.List = New(Options{
		AtATime: atATime, Kept: 3, Waiting: 5, Now: r.clock.Now, Metrics: r.all.Jobs, Log: slog.New(slog.DiscardHandler),
		Changed: func(j Job) { r.mu.Lock(); r.states[j.What] = append(r.states[j.What], j.State); r.mu.Unlock() },
	})
	t.Cleanup(r.Close)
	return r
}

// ended waits for the end of a job.
func (r *rig) ended(t *testing.T, id string) Job {
	t.Helper()
	for end := time.Now().Add(testkit.Patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if j, err := r.Get(id); err != nil {
			t.Fatal(err)
		} else if j.State.Over() {
			return j
		}
	}
	t.Fatal("the job does not end")
	return Job{}
}

func start(t *testing.T, r *rig, what string, run func(context.Context, *Task) error) Job {
	t.Helper()
	j, err := r.Start(Work{Warm, what, run})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestEnds: every way in which a job can end.
func TestEnds(t *testing.T) {
	r := newRig(t, 2)
	good, bad := Item{Name: "a", OK: true, Result: "held already"}, Item{Name: "b", Result: "failed: gone"}
	for i, one := range []struct {
		items []Item
		err   error
		panic bool
		want  State
	}{
		{nil, nil, false, Done},
		{[]Item{good}, nil, false, Done},
		{[]Item{good, bad}, nil, false, InPart},
		{[]Item{bad}, nil, false, Failed},
		{nil, errors.New("no"), false, Failed},
		{[]Item{good}, errors.New("no"), false, InPart},
		{nil, nil, true, Failed},
	} {
		j := start(t, r, fmt.Sprint(i), func(_ context.Context, task *Task) error {
			for _, item := range one.items {
				task.Item(item)
			}
			if one.panic {
				panic("bug")
			}
			return one.err
		})
		got := r.ended(t, j.ID)
		if got.State != one.want || (got.State == Done) != (len(got.Errors) == 0) {
			t.Errorf("%d: %+v", i, got)
		}
	}
	if n, _ := r.all.Value("hubcap_job_failures_total", "kind", "warm"); n != 5 {
		t.Errorf("%v failures are counted", n)
	}
	r.Close()
	if want := []State{Waiting, Running, InPart}; !slices.Equal(r.states["2"], want) {
		t.Errorf("%v", r.states["2"])
	}
	if _, err := r.Start(Work{Kind: Warm}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestQueue: few run at a time, some wait, more are refused; all of them can be
// cancelled, and the last ones are kept.
func TestQueue(t *testing.T) {
	r := newRig(t, 1)
	until := func(ctx context.Context, _ *Task) error { <-ctx.Done(); return context.Cause(ctx) }
	running := make(chan struct{})
	all := []Job{start(t, r, "first", func(ctx context.Context, task *Task) error {
		close(running)
		return until(ctx, task)
	})}
	<-running
	for range 5 {
		all = append(all, start(t, r, "more", until))
	}
	if _, err := r.Start(Work{Warm, "one too many", until}); !errors.Is(err, ErrTooMany) {
		t.Errorf("%v", err)
	}
	listed := r.All()
	if len(listed) != 6 || listed[5].State != Running || listed[0].State != Waiting || listed[0].ID != all[5].ID {
		t.Errorf("%+v", listed)
	}
	for _, j := range slices.Backward(all[1:]) {
		if err := r.Cancel(j.ID); err != nil {
			t.Error(err)
		}
	}
	if err := r.Cancel(all[0].ID); err != nil {
		t.Error(err)
	}
	r.settled(t)
	if kept := r.All(); len(kept) != 3 || kept[0].State != Cancelled {
		t.Errorf("%+v", kept)
	}
	if err := r.Cancel(r.All()[0].ID); !errors.Is(err, ErrOver) {
		t.Errorf("%v", err)
	}
}

// settled waits until no job waits or runs.
func (r *rig) settled(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(testkit.Patience); ; time.Sleep(time.Millisecond) {
		if all := r.All(); len(all) <= 3 && !slices.ContainsFunc(all, func(j Job) bool { return !j.State.Over() }) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", r.All())
		}
	}
}

// TestIDs: those of another life of the box are gone, and anything else is unknown.
func TestIDs(t *testing.T) {
	r := newRig(t, 1)
	id := start(t, r, "x", func(context.Context, *Task) error { return nil }).ID
	r.ended(t, id)
	r.clock.Advance(time.Hour)
	later := newRig(t, 1)
	later.clock.Advance(time.Hour)
	later.boot = "zzzz"
	for name, want := range map[string]error{id: ErrGone, "zzzz-7": ErrUnknown, "": ErrUnknown, "x": ErrUnknown, "../..": ErrUnknown, id + "x": ErrUnknown} {
		if _, err := later.Get(name); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
		if err := later.Cancel(name); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
}

// TestProgress: the rate is the average, or what is told live, and what is left
// follows from it.
func TestProgress(t *testing.T) {
	r := newRig(t, 1)
	step, next := make(chan struct{}), make(chan struct{})
	j := start(t, r, "x", func(_ context.Context, task *Task) error {
		r.clock.Advance(10 * time.Second)
		task.Progress(1, 4, 100, 400)
		task.Pulls("docker.io", 1, 50)
		task.Pulls("docker.io", 2, 48)
		step <- struct{}{}
		<-next
		task.Live(func() (int64, int64) { return 50, 25 })
		step <- struct{}{}
		<-next
		return nil
	})
	<-step
	got, err := r.Get(j.ID)
	if err != nil || got.Rate != 10 || got.Left == nil || *got.Left != 30 || got.Objects != 1 || got.ObjectsTotal != 4 || !slices.Equal(got.Pulls, []Pulls{{"docker.io", 3, 48}}) {
		t.Errorf("%+v, %v", got, err)
	}
	next <- struct{}{}
	<-step
	if got, err = r.Get(j.ID); err != nil || got.Done != 150 || got.Rate != 25 || *got.Left != 10 {
		t.Errorf("%+v, %v", got, err)
	}
	next <- struct{}{}
	if got = r.ended(t, j.ID); got.Rate != 0 || got.Left != nil {
		t.Errorf("%+v", got)
	}
}

// TestDo does work for a caller that waits, though others wait for their turn, and
// ends with it.
func TestDo(t *testing.T) {
	r := newRig(t, 1)
	start(t, r, "blocks", func(ctx context.Context, _ *Task) error { <-ctx.Done(); return nil })
	j, err := r.Do(t.Context(), Work{Export, "now", func(context.Context, *Task) error { return nil }})
	if err != nil || j.State != Done {
		t.Errorf("%+v, %v", j, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	j, err = r.Do(ctx, Work{Export, "leaves", func(ctx context.Context, _ *Task) error { cancel(); <-ctx.Done(); return ctx.Err() }})
	if !errors.Is(err, context.Canceled) || j.State != Cancelled {
		t.Errorf("%+v, %v", j, err)
	}
}
