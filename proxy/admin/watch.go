package admin

import (
	"context"
	"time"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/jobs"
)

// lookEvery is how often the rooms are looked at for what has changed. A download
// that is shorter may not be seen.
const lookEvery = time.Second

// Watch publishes what begins and ends in the rooms, until ctx ends.
func (b *Box) Watch(ctx context.Context) {
	w := &watcher{b: b, fills: make(map[string]api.Fill), problems: make(map[string]api.Problem), circuits: make(map[string]string)}
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
	fills    map[string]api.Fill    // by digest
	problems map[string]api.Problem // by id
	circuits map[string]string      // by upstream, role and host
}

func (w *watcher) look() {
	w.lookAtFills()
	w.lookAtProblems()
	w.lookAtUpstreams()
	if w.b.Events.listened() {
		for _, j := range w.b.Jobs.All() {
			if j.State == jobs.Running {
				w.b.Events.progress(api.EventJob, JobEvent(j))
			}
		}
	}
}

func (w *watcher) lookAtFills() {
	now := make(map[string]api.Fill)
	listened := w.b.Events.listened()
	for _, f := range w.b.Cache.Fills() {
		one := fillOf(f)
		now[one.Digest] = one
		if before, known := w.fills[one.Digest]; !known || !before.Since.Equal(one.Since) {
			w.b.Events.Publish(api.EventFill, one)
		} else if listened {
			w.b.Events.progress(api.EventFill, one)
		}
	}
	for digest, one := range w.fills {
		if _, runs := now[digest]; !runs {
			one.State, one.Rate, one.LeftS = api.FillEnded, 0, nil
			w.b.Events.Publish(api.EventFill, one)
		}
	}
	w.fills = now
}

func (w *watcher) lookAtProblems() {
	now := make(map[string]api.Problem)
	for _, p := range w.b.Problems.All() {
		now[p.ID] = p
		if _, known := w.problems[p.ID]; !known {
			w.b.Events.Publish(api.EventProblem, api.ProblemEvent{State: "begun", Problem: p})
		}
	}
	for id, p := range w.problems {
		if _, lasts := now[id]; !lasts {
			w.b.Events.Publish(api.EventProblem, api.ProblemEvent{State: "ended", Problem: p})
		}
	}
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
				w.b.Events.Publish(api.EventUpstream, api.UpstreamEvent{Upstream: u.Host, Host: w.b.host(h)})
			}
		}
	}
	w.circuits = now
}
