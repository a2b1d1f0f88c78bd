package freshness

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// settle waits until the registry of a frozen tag is not being asked.
func (r *rig) settle(repo Repository, tag string) {
	<-r.begin(r.t.Context(), repo.question("watch", repo.tag(tag).String()), func(context.Context) (Answer, error) { return Answer{}, nil }).done
}

// state compares what is known of a tag: its state, the digest that clients are
// given, and the one that the registry names where it is another.
func (r *rig) state(repo Repository, tag string, state TagState, served, moved string) TagStatus {
	r.t.Helper()
	_, s, err := r.History(repo, tag)
	if err != nil || s.State != state || s.Digest != digest.FromString(served) || (s.Moved != nil) != (moved != "") ||
		s.Moved != nil && s.Moved.Digest != digest.FromString(moved) {
		r.t.Errorf("%+v, %+v, %v; want %s at %q, moved to %q", s, s.Moved, err, state, served, moved)
	}
	return s
}

func (r *rig) freeze(repo Repository, tag string, o FreezeOrder) {
	r.t.Helper()
	if _, err := r.Freeze(r.t.Context(), repo, tag, o); err != nil {
		r.t.Fatal(err)
	}
}

// TestFrozen: whatever happens to a frozen tag at its registry, it is answered
// with the same digest, and nobody waits for the registry. Once it is thawed, or
// its time is over, the next answer asks.
func TestFrozen(t *testing.T) {
	for name, event := range map[string]func(r *rig){
		"nothing":         func(*rig) {},
		"moved":           func(r *rig) { r.hub.push(app, "latest", "two") },
		"deleted":         func(r *rig) { delete(r.hub.tags, app+":latest") },
		"refused":         func(r *rig) { r.hub.fail(denied) },
		"withdrawn":       func(r *rig) { r.hub.fail(failure(upstream.Withdrawn, 451)) },
		"down":            func(r *rig) { r.hub.fail(down) },
		"an error":        func(r *rig) { r.hub.fail(failure(upstream.ServerError, 500)) },
		"offline":         func(r *rig) { r.hub.fail(failure(upstream.Unasked, 0)) },
		"restarted":       func(r *rig) { r.restart() },
		"moved, restart":  func(r *rig) { r.hub.push(app, "latest", "two"); r.restart() },
		"clock set back":  func(r *rig) { r.clock.Advance(-1000 * time.Hour) },
		"ten years later": func(r *rig) { r.hub.push(app, "latest", "two"); r.clock.Advance(10 * 365 * 24 * time.Hour) },
	} {
		for _, restricted := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t)
				repo := r.repo(app)
				if restricted {
					repo.Restricted, repo.StaleFor = &Restricted{Links: links{}}, 0
				}
				r.hub.push(app, "latest", "one")
				r.get(repo, "latest", Fetched, "one")
				r.freeze(repo, "latest", FreezeOrder{})
				event(r)
				answered := 0
				r.clock.Advance(time.Hour)
				for range 3 {
					if a := r.get(repo, "latest", Fresh, "one"); a.Tag != Frozen || a.Trouble != nil || a.Deleted {
						t.Errorf("%+v", a)
					}
					if a, err := r.Head(t.Context(), repo, "latest"); err != nil || a.State != Fresh || a.Tag != Frozen || a.Digest != digest.FromString("one") {
						t.Errorf("HEAD: %+v, %v", a, err)
					}
					r.settle(repo, "latest")
					answered++
					r.clock.Advance(watchEvery)
				}
				if n := len(r.hub.asked); n < answered || n > 1+2*answered { // a HEAD, and a GET where that fails
					t.Errorf("asked %q", r.hub.asked)
				}
			})
		}
	}
}

// TestThaw: after a thaw, and after the end of a freeze, the next answer asks,
// whatever the rules say; while the registry is down it is stale.
func TestThaw(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"thawed": func(r *rig) {
			if s, err := r.Thaw(r.repo(app), "v1"); err != nil || s.State != Following {
				r.t.Errorf("%+v, %v", s, err)
			}
		},
		"until": func(r *rig) { r.clock.Advance(24 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Rule{Repository: "*", Tag: "v1", Immutable: true})
			repo := r.repo(app)
			r.hub.push(app, "v1", "one")
			r.get(repo, "v1", Fetched, "one")
			r.freeze(repo, "v1", FreezeOrder{Until: r.clock.Now().Add(24 * time.Hour), Note: "a note", By: "an operator"})
			if s := r.state(repo, "v1", Frozen, "one", ""); s.Frozen.Note != "a note" || s.Frozen.By != "an operator" || !s.Frozen.Since.Equal(r.clock.Now()) {
				t.Errorf("%+v", s.Frozen)
			}
			r.hub.push(app, "v1", "two")
			end(r)
			r.restart()
			r.state(repo, "v1", Following, "one", "")
			r.clock.Advance(-time.Hour) // a clock that is set back does not freeze a thawed tag again
			if name == "until" {
				r.clock.Advance(time.Hour)
			}
			r.hub.fail(down)
			r.get(repo, "v1", Stale, "one")
			r.hub.fail(nil)
			r.clock.Advance(checkAgain)
			r.get(repo, "v1", Fetched, "two")
			r.state(repo, "v1", Following, "two", "")
			r.hub.push(app, "v1", "three")
			r.clock.Advance(time.Hour)
			r.get(repo, "v1", Fresh, "two") // by its rule again
			if _, err := r.Thaw(repo, "v1"); !errors.Is(err, ErrNotFrozen) {
				t.Error(err)
			}
		})
	}
}

// TestFrozenHistory: what a registry says of a frozen tag is known, and is asked
// once an hour.
func TestFrozenHistory(t *testing.T) {
	r := newRig(t)
	repo := r.repo(app)
	r.hub.push(app, "latest", "one")
	r.get(repo, "latest", Fetched, "one")
	r.freeze(repo, "latest", FreezeOrder{})
	r.hub.wasAsked(t, "GET owner/app latest")
	look := func(want ...string) {
		t.Helper()
		r.get(repo, "latest", Fresh, "one")
		r.settle(repo, "latest")
		r.hub.wasAsked(t, want...)
	}
	r.clock.Advance(watchEvery - 1)
	look()
	r.clock.Advance(1)
	look("HEAD owner/app latest")
	look()
	r.hub.push(app, "latest", "two")
	r.clock.Advance(watchEvery)
	look("HEAD owner/app latest")
	moved := r.state(repo, "latest", Frozen, "one", "two").Moved.Since
	r.clock.Advance(3 * 24 * time.Hour)
	look("HEAD owner/app latest")
	if s := r.state(repo, "latest", Frozen, "one", "two"); !s.Moved.Since.Equal(moved) || !s.Moved.Until.IsZero() {
		t.Errorf("%+v", s.Moved)
	}
	r.restart()
	r.hub.push(app, "latest", "three")
	r.clock.Advance(watchEvery)
	look("HEAD owner/app latest")
	delete(r.hub.tags, app+":latest")
	r.clock.Advance(watchEvery)
	look("HEAD owner/app latest", "GET owner/app latest")
	if s := r.state(repo, "latest", Frozen, "one", "three"); !s.Frozen.Deleted.Equal(r.clock.Now()) {
		t.Errorf("%+v", s.Frozen)
	}
	r.hub.push(app, "latest", "three")
	r.clock.Advance(watchEvery)
	look("HEAD owner/app latest")
	if s := r.state(repo, "latest", Frozen, "one", "three"); !s.Frozen.Deleted.IsZero() {
		t.Errorf("%+v", s.Frozen)
	}
	lines, _, err := r.History(repo, "latest")
	var bodies []string
	for _, l := range lines {
		for _, body := range []string{"one", "two", "three"} {
			if l.Digest == digest.FromString(body) {
				bodies = append(bodies, body)
			}
		}
		if l.Served != (l.Digest == digest.FromString("one")) || l.Current != l.Served || l.Registry != (l.Digest == digest.FromString("three")) {
			t.Errorf("%+v", l)
		}
	}
	if err != nil || !slices.Equal(bodies, []string{"three", "two", "one"}) {
		t.Errorf("%v, %v", bodies, err)
	}
}

// TestFrozenTags: frozen tags are found after a restart before anybody asks, and
// counted.
func TestFrozenTags(t *testing.T) {
	r := newRig(t)
	for _, tag := range []string{"a", "b", "c"} {
		r.hub.push(app, tag, tag)
		r.get(r.repo(app), tag, Fetched, tag)
	}
	r.freeze(r.repo(app), "b", FreezeOrder{})
	r.freeze(r.repo(app), "c", FreezeOrder{})
	if _, err := r.Thaw(r.repo(app), "c"); err != nil {
		t.Fatal(err)
	}
	want := map[index.Name]digest.Digest{r.repo(app).tag("b"): digest.FromString("b")}
	for range 2 {
		if got := maps.Collect(r.Frozen()); !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if all := r.Kept(); len(all) != 1 || all[0].Ref != "docker.io/owner/app:b" || all[0].State != Frozen {
			t.Errorf("%+v", all)
		}
		if n := r.Status().Tags; n != (TagCounts{2, 1, 0}) {
			t.Errorf("%+v", n)
		}
		r.restart()
	}
	<-r.tags.counted
	r.hub.push(app, "d", "d")
	r.get(r.repo(app), "d", Fetched, "d")
	delete(r.hub.tags, app+":a")
	r.clock.Advance(time.Minute)
	_, _ = r.Get(t.Context(), r.repo(app), "a")
	if n := r.Status().Tags; n != (TagCounts{2, 1, 0}) {
		t.Errorf("after one more and one less: %+v", n)
	}
}
