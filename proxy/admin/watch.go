package admin

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/jobs"
)

// lookEvery is how often the rooms are looked at for what has changed. A download
// that is shorter may not be seen.
const lookEvery = time.Second

// Watch publishes what begins and ends in the rooms, until ctx ends.
func (b *Box) Watch(ctx context.Context) {
	w := &watcher{b: b, fills: make(map[digest.Digest]api.Fill), problems: make(map[string]api.Problem), circuits: make(map[string]string)}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look()
		}
	}
}

// watcher has what was seen at the last look.
type watcher struct {
	b        *Box
	fills    map[digest.Digest]api.Fill
	problems map[string]api.Problem // by id
	circuits map[string]string      // by upstream, role and host
	evicted  eviction.Evictions
}

func (w *watcher) look() {
	w.lookAtFills()
	w.lookAtProblems()
	w.lookAtUpstreams()
	w.lookAtEvictions()
	if w.b.Events.listened() {
		for _, j := range w.b.Jobs.All() {
			if j.State == jobs.Running {
				w.b.Events.progress(api.EventJob, JobEvent(j))
			}
		}
	}
}

func (w *watcher) lookAtFills() {
	now := make(map[digest.Digest]api.Fill)
	listened := w.b.Events.listened()
	for _, one := range w.b.Cache.Fills() {
		now[one.Digest] = one
		if before, known := w.fills[one.Digest]; !known || !before.Since.Equal(one.Since) {
			w.b.Events.Publish(api.EventFill, one)
		} else if listened {
			w.b.Events.progress(api.EventFill, one)
		}
	}
	for d, one := range w.fills {
		if _, runs := now[d]; !runs {
			one.State, one.Rate, one.Left = api.FillEnded, 0, nil
			w.b.Events.Publish(api.EventFill, one)
		}
	}
	w.fills = now
}

func (w *watcher) lookAtProblems() {
	now := make(map[string]api.Problem)
	for _, p := range w.b.Problems.All() {
		now[p.ID] = p
	}
	tell := func(state string, all, others map[string]api.Problem) {
		for id, p := range all {
			if _, known := others[id]; !known {
				w.b.Events.Publish(api.EventProblem, api.ProblemEvent{State: state, Problem: p})
			}
		}
	}
	tell("begun", now, w.problems)
	tell("ended", w.problems, now)
	w.problems = now
}

// lookAtUpstreams looks for circuits that have opened or closed. One that is not
// known was closed.
func (w *watcher) lookAtUpstreams() {
	now := make(map[string]string)
	for _, u := range w.b.Upstreams.Status() {
		for _, h := range u.Hosts {
			key := u.Host + " " + h.Role + " " + h.Host
			before, known := w.circuits[key]
			if now[key] = h.Circuit; before != h.Circuit && (known || h.Circuit != "closed") {
				w.b.Events.Publish(api.EventUpstream, api.UpstreamEvent{Upstream: u.Host, Host: h})
			}
		}
	}
	w.circuits = now
}

func (w *watcher) lookAtEvictions() {
	now := w.b.Ledger.Status().Evictions
	if n := now.Objects - w.evicted.Objects; n > 0 {
		w.b.Events.Publish(api.EventEviction, api.EvictionEvent{Objects: n, Bytes: now.Bytes - w.evicted.Bytes, UnusedS: seconds(now.Unused)})
	}
	w.evicted = now
}
