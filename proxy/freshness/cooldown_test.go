package freshness

import (
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/upstream"
)

// cooling is a rig with a cool-down of two days, except for nightly tags. The tag
// latest of app is pulled, and has then moved from one to two.
func cooling(t *testing.T, rules ...Rule) (*rig, Repository) {
	r := newRig(t, rules...)
	r.o.Cooldowns = []Cooldown{{"*", "nightly", 0}, {"docker.io/**", "*", 48 * time.Hour}}
	r.restart()
	repo := r.repo(app)
	r.hub.push(app, "latest", "one")
	r.get(repo, "latest", Fetched, "one")
	r.hub.push(app, "latest", "two")
	r.clock.Advance(time.Minute)
	if a := r.get(repo, "latest", Confirmed, "one"); a.Tag != Cooling {
		t.Errorf("%+v", a)
	}
	return r, repo
}

// after advances the clock and pulls.
func (r *rig) after(d time.Duration, repo Repository, state State, body string) Answer {
	r.t.Helper()
	r.clock.Advance(d)
	return r.get(repo, "latest", state, body)
}

const hours48 = 48 * time.Hour

// TestCooldown is what happens to a tag in its cool-down.
func TestCooldown(t *testing.T) {
	for name, then := range map[string]func(r *rig, repo Repository){
		"nothing": func(r *rig, repo Repository) {
			if a := r.after(time.Second, repo, Fresh, "one"); a.Tag != Cooling {
				r.t.Errorf("%+v", a)
			}
			r.after(hours48-2*time.Second, repo, Confirmed, "one")
			r.after(time.Minute, repo, Fetched, "two")
			r.state(repo, "latest", Following, "two", "")
		},
		"nobody pulls meanwhile": func(r *rig, repo Repository) {
			r.after(hours48, repo, Fetched, "two")
		},
		"it moves again": func(r *rig, repo Repository) {
			r.clock.Advance(hours48 - time.Hour)
			r.hub.push(app, "latest", "three")
			r.get(repo, "latest", Confirmed, "one")
			r.state(repo, "latest", Cooling, "one", "three")
			r.after(hours48-time.Second, repo, Confirmed, "one")
			r.after(time.Minute, repo, Fetched, "three")
		},
		"it moves again just before it is asked": func(r *rig, repo Repository) {
			r.hub.push(app, "latest", "three")
			r.after(hours48, repo, Confirmed, "one")
		},
		"it moves back": func(r *rig, repo Repository) {
			r.hub.push(app, "latest", "one")
			r.after(hours48-time.Hour, repo, Confirmed, "one")
			r.state(repo, "latest", Following, "one", "")
			r.hub.push(app, "latest", "two")
			r.after(2*time.Hour, repo, Confirmed, "one") // begins anew
			r.after(hours48, repo, Fetched, "two")
		},
		"it moves on, and to what was served before": func(r *rig, repo Repository) {
			r.after(hours48, repo, Fetched, "two")
			r.hub.push(app, "latest", "one")
			r.after(time.Minute, repo, Fresh, "one")
		},
		"the registry fails": func(r *rig, repo Repository) {
			r.hub.fail(down)
			r.after(hours48, repo, Stale, "one")
			r.hub.fail(nil)
			r.after(checkAgain, repo, Fetched, "two")
		},
		"its manifest cannot be had at the end": func(r *rig, repo Repository) {
			r.hub.hook(func(method, _, _ string) error {
				if method == "GET" {
					return down
				}
				return nil
			})
			r.after(hours48, repo, Stale, "one")
		},
		"the tag is deleted": func(r *rig, repo Repository) {
			delete(r.hub.tags, app+":latest")
			r.clock.Advance(time.Minute)
			r.fails(repo, upstream.NotFound)
			r.hub.push(app, "latest", "two")
			r.after(NotFoundFor, repo, Fetched, "two") // a first pull has no age
		},
		"refused": func(r *rig, repo Repository) {
			r.clock.Advance(time.Minute)
			r.hub.fail(denied)
			r.fails(repo, upstream.Denied)
			r.state(repo, "latest", Cooling, "one", "two")
		},
		"restarts": func(r *rig, repo Repository) {
			for range 2 {
				r.restart()
				r.after(23*time.Hour, repo, Confirmed, "one")
			}
			if all := r.Kept(); len(all) != 1 || all[0].State != Cooling || all[0].Moved.Digest != digest.FromString("two") ||
				!all[0].Moved.Until.Equal(r.clock.Now().Add(2*time.Hour)) {
				r.t.Errorf("%+v", all)
			}
			r.restart()
			r.after(2*time.Hour, repo, Fetched, "two")
		},
		"the clock is set back": func(r *rig, repo Repository) {
			r.clock.Advance(-1000 * time.Hour)
			r.restart()
			r.get(repo, "latest", Confirmed, "one")
			r.after(hours48-time.Second, repo, Confirmed, "one") // begins anew
			r.after(time.Minute, repo, Fetched, "two")
		},
		"the image that is served is incomplete": func(r *rig, repo Repository) {
			r.store.lack(digest.FromString("one"))
			r.after(time.Minute, repo, Fetched, "two")
		},
		"the manifest that is served is lost": func(r *rig, repo Repository) {
			r.store.evict()
			r.after(time.Minute, repo, Fetched, "two")
		},
		"a HEAD": func(r *rig, repo Repository) {
			r.clock.Advance(time.Minute)
			if a, err := r.Head(r.t.Context(), repo, "latest"); err != nil || a.Digest != digest.FromString("one") || a.State != Confirmed || a.Tag != Cooling {
				r.t.Errorf("%+v, %v", a, err)
			}
			r.clock.Advance(hours48)
			if a, err := r.Head(r.t.Context(), repo, "latest"); err != nil || a.Digest != digest.FromString("two") || a.Tag == Cooling {
				r.t.Errorf("%+v, %v", a, err)
			}
		},
		"a pull by digest": func(r *rig, repo Repository) {
			for _, body := range []string{"one", "two"} {
				if a, err := r.Digest(r.t.Context(), repo, digest.FromString(body)); err != nil || string(a.Body) != body || a.Tag == Cooling {
					r.t.Errorf("%+v, %v", a, err)
				}
			}
			r.after(time.Minute, repo, Confirmed, "one")
		},
		"the registry has no HEAD": func(r *rig, repo Repository) {
			r.hub.edit = func(d *upstream.Descriptor) { d.Digest = "" }
			r.after(time.Minute, repo, Confirmed, "one")
			r.after(hours48, repo, Fetched, "two")
		},
		"adopted": func(r *rig, repo Repository) {
			if s, err := r.Adopt(r.t.Context(), repo, "latest"); err != nil || s.State != Following || s.Digest != digest.FromString("two") {
				r.t.Errorf("%+v, %v", s, err)
			}
			r.restart()
			r.get(repo, "latest", Fresh, "two")
			if lines, _, _ := r.History(repo, "latest"); len(lines) != 2 || lines[0].Via != "operator" || lines[1].Via != "pull" {
				r.t.Errorf("%+v", lines)
			}
			if _, err := r.Adopt(r.t.Context(), repo, "latest"); !errors.Is(err, ErrNotCooling) {
				r.t.Error(err)
			}
		},
		"adopted, and its manifest cannot be had": func(r *rig, repo Repository) {
			r.hub.fail(down)
			if _, err := r.Adopt(r.t.Context(), repo, "latest"); !errors.Is(err, ErrNotHeld) || !errors.Is(err, down) {
				r.t.Error(err)
			}
			r.state(repo, "latest", Cooling, "one", "two")
		},
		"frozen, and thawed after the cool-down": func(r *rig, repo Repository) {
			r.freeze(repo, "latest", FreezeOrder{})
			r.after(hours48, repo, Fresh, "one")
			r.settle(repo, "latest")
			r.state(repo, "latest", Frozen, "one", "two")
			if _, err := r.Thaw(repo, "latest"); err != nil {
				r.t.Error(err)
			}
			r.get(repo, "latest", Fetched, "two")
		},
		"frozen, and thawed before its end": func(r *rig, repo Repository) {
			r.freeze(repo, "latest", FreezeOrder{})
			if _, err := r.Thaw(repo, "latest"); err != nil {
				r.t.Error(err)
			}
			r.after(time.Hour, repo, Confirmed, "one")
			r.after(time.Second, repo, Fresh, "one")
			r.state(repo, "latest", Cooling, "one", "two")
			r.after(hours48, repo, Fetched, "two")
		},
	} {
		for _, restricted := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r, repo := cooling(t)
				if restricted {
					r.store.evict()
					delete(r.hub.tags, app+":latest")
					repo.Restricted = &Restricted{Links: links{}}
					r.hub.push(app, "latest", "one")
					r.get(repo, "latest", Fetched, "one")
					r.hub.push(app, "latest", "two")
					r.after(time.Minute, repo, Confirmed, "one")
					r.tags.forget(r.repo(app).tag("latest"), digest.FromString("one"), r.frozen)
				}
				then(r, repo)
			})
		}
	}
}

// TestNoCooldown: tags without a cool-down move at once, and so do those whose
// image is not held whole.
func TestNoCooldown(t *testing.T) {
	r, repo := cooling(t)
	r.hub.push(app, "nightly", "one")
	r.get(repo, "nightly", Fetched, "one")
	r.clock.Advance(time.Minute)
	r.hub.push(app, "nightly", "three")
	r.get(repo, "nightly", Fetched, "three")

	r.store.lack(digest.FromString("four"))
	r.hub.push(app, "v4", "four")
	r.get(repo, "v4", Fetched, "four")
	r.clock.Advance(time.Minute)
	r.hub.push(app, "v4", "five")
	r.get(repo, "v4", Fetched, "five")
}

// TestSkippedIsNotServed: while the registry is in trouble, clients are not given
// a digest that waited for its cool-down and was replaced.
func TestSkippedIsNotServed(t *testing.T) {
	r, repo := cooling(t)
	if _, err := r.Digest(t.Context(), repo, digest.FromString("two")); err != nil { // it is held
		t.Fatal(err)
	}
	r.hub.push(app, "latest", "three")
	r.after(time.Minute, repo, Confirmed, "one")
	r.after(hours48, repo, Fetched, "three")
	var earlier []digest.Digest
	for a := range r.Earlier(repo, "latest") {
		earlier = append(earlier, a.Digest)
	}
	if len(earlier) != 1 || earlier[0] != digest.FromString("one") {
		t.Error(earlier)
	}
	lines, _, err := r.History(repo, "latest")
	if err != nil || len(lines) != 3 || lines[1].Digest != digest.FromString("two") || lines[1].Served || !lines[0].Registry || !lines[0].Current {
		t.Errorf("%+v, %v", lines, err)
	}
}
