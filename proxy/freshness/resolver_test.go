package freshness

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

const app = "owner/app"

func TestTTL(t *testing.T) {
	r := newRig(t, Rule{Repository: app, Tag: "slow", TTL: time.Hour})
	r.hub.push(app, "latest", "one")
	r.hub.push(app, "slow", "two")
	for tag, ttl := range map[string]time.Duration{"latest": time.Minute, "slow": time.Hour} {
		body := r.hub.tags[app+":"+tag]
		r.get(r.repo(app), tag, Fetched, body)
		r.hub.wasAsked(t, "GET owner/app "+tag)
		r.clock.Advance(ttl - 1)
		if a := r.get(r.repo(app), tag, Fresh, body); a.Age != ttl-1 {
			t.Errorf("age %v", a.Age)
		}
		r.hub.wasAsked(t)
		r.clock.Advance(1)
		if a := r.get(r.repo(app), tag, Confirmed, body); a.Age != 0 {
			t.Errorf("age %v once confirmed", a.Age)
		}
		r.hub.wasAsked(t, "HEAD owner/app "+tag)
		r.get(r.repo(app), tag, Fresh, body)
		r.hub.wasAsked(t)
	}
}

func TestImmutable(t *testing.T) {
	r := newRig(t, Rule{Repository: "**", Tag: "v*", Immutable: true})
	r.hub.push(app, "v1", "one")
	r.get(r.repo(app), "v1", Fetched, "one")
	r.hub.push(app, "v1", "two")
	r.clock.Advance(10 * 365 * 24 * time.Hour)
	r.get(r.repo(app), "v1", Fresh, "one")
	r.clock.Advance(-20 * 365 * 24 * time.Hour)
	r.get(r.repo(app), "v1", Fresh, "one")
	r.hub.wasAsked(t, "GET owner/app v1")
}

// TestClockSetBack: a tag that was confirmed in the future is checked.
func TestClockSetBack(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	r.get(r.repo(app), "latest", Fetched, "one")
	r.clock.Advance(-time.Hour)
	r.get(r.repo(app), "latest", Confirmed, "one")
}

// TestAgeCountsFromTheQuestion: an answer that was long on its way is as old as
// the question.
func TestAgeCountsFromTheQuestion(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	r.hub.hook(func(string, string, string) error { r.clock.Advance(40 * time.Second); return nil })
	r.get(r.repo(app), "latest", Fetched, "one") // by GET
	r.clock.Advance(19 * time.Second)
	if a := r.get(r.repo(app), "latest", Fresh, "one"); a.Age != 59*time.Second {
		t.Errorf("age %v", a.Age)
	}
	r.clock.Advance(time.Second)
	r.get(r.repo(app), "latest", Confirmed, "one") // by HEAD
	if a := r.get(r.repo(app), "latest", Fresh, "one"); a.Age != 40*time.Second {
		t.Errorf("age %v after a check", a.Age)
	}
	r.clock.Advance(20 * time.Second)
	r.hub.fail(nil)
	r.get(r.repo(app), "latest", Confirmed, "one")
}

// TestStaleIfError: the limit counts from the first check that failed, across a
// restart, and begins anew after an answer.
func TestStaleIfError(t *testing.T) {
	r := newRig(t)
	repo := r.repo(app)
	repo.StaleFor = time.Hour
	r.hub.push(app, "latest", "one")
	r.get(repo, "latest", Fetched, "one")
	outage := func() {
		t.Helper()
		r.hub.fail(down)
		r.clock.Advance(time.Minute)
		if a := r.get(repo, "latest", Stale, "one"); !errors.Is(a.Trouble, down) || a.Deleted || a.Age < time.Minute {
			t.Errorf("%+v", a)
		}
		r.clock.Advance(30 * time.Minute)
		r.get(repo, "latest", Stale, "one")
		r.restart()
		r.clock.Advance(30*time.Minute - 1)
		r.get(repo, "latest", Stale, "one")
		r.clock.Advance(1)
		r.fails(repo, upstream.Unreachable)
		r.restart()
		r.fails(repo, upstream.Unreachable)
	}
	outage()
	r.hub.fail(nil)
	r.clock.Advance(checkAgain)
	r.get(repo, "latest", Confirmed, "one")
	outage()

	repo.StaleFor = 0
	r.fails(repo, upstream.Unreachable)
	repo.StaleFor = -1
	r.clock.Advance(1000 * time.Hour)
	r.get(repo, "latest", Stale, "one")
	r.store.evict()
	r.fails(repo, upstream.Unreachable)
}

// TestFailingUpstreamIsLeftAlone: within checkAgain of a failed check, held
// content is served without asking.
func TestFailingUpstreamIsLeftAlone(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	r.get(r.repo(app), "latest", Fetched, "one")
	r.hub.fail(down)
	r.clock.Advance(time.Minute)
	for range 3 {
		r.get(r.repo(app), "latest", Stale, "one")
	}
	r.hub.wasAsked(t, "GET owner/app latest", "HEAD owner/app latest")
	r.clock.Advance(checkAgain)
	r.get(r.repo(app), "latest", Stale, "one")
	r.hub.wasAsked(t, "HEAD owner/app latest")
}

// TestSlowUpstream: a client that can be served held content does not wait
// longer than checkDelay; the check goes on.
func TestSlowUpstream(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	r.get(r.repo(app), "latest", Fetched, "one")
	r.clock.Advance(time.Minute)
	answer, asked := make(chan struct{}), make(chan struct{}, 1)
	r.hub.hook(func(string, string, string) error { asked <- struct{}{}; <-answer; return nil })
	r.slow = make(chan time.Time, 1)
	r.slow <- time.Time{}
	if a := r.get(r.repo(app), "latest", Stale, "one"); !errors.Is(a.Trouble, errSlow) {
		t.Errorf("trouble %v", a.Trouble)
	}
	<-asked
	r.get(r.repo(app), "latest", Stale, "one") // without waiting
	r.clock.Advance(checkAgain)
	close(answer)
	r.slow = nil
	if a, err := r.Get(t.Context(), r.repo(app), "latest"); err != nil || a.State != Confirmed && a.State != Fresh {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestDeleted(t *testing.T) {
	for _, tc := range []struct {
		name             string
		keep, restricted bool
		served           bool
	}{
		{"by default", false, false, false},
		{"kept", true, false, true},
		{"restricted content is never kept", true, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.o.KeepDeleted = tc.keep
			r.restart()
			repo := r.repo(app)
			if tc.restricted {
				repo.Restricted = &Restricted{Links: links{}}
			}
			r.hub.push(app, "latest", "one")
			r.get(repo, "latest", Fetched, "one")
			delete(r.hub.tags, app+":latest")
			r.clock.Advance(time.Minute)
			if tc.served {
				repo.StaleFor = 0 // this limit is for failing upstreams
				for range 3 {     // without a limit, and across a restart
					if a := r.get(repo, "latest", Stale, "one"); !a.Deleted {
						t.Error("not marked as deleted")
					}
					r.clock.Advance(1000 * time.Hour)
					r.restart()
				}
				return
			}
			r.fails(repo, upstream.NotFound)
			if r.Knows(repo, "latest") {
				t.Error("the tag is still known")
			}
			r.restart()
			if r.Knows(repo, "latest") {
				t.Error("the tag is known again after a restart")
			}
		})
	}
}

// TestRefusedTagStaysKnown: a refusal ends access and is no deletion.
func TestRefusedTagStaysKnown(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	r.get(r.repo(app), "latest", Fetched, "one")
	r.clock.Advance(time.Minute)
	r.hub.fail(denied)
	r.fails(r.repo(app), upstream.Denied)
	if !r.Knows(r.repo(app), "latest") {
		t.Error("the tag was forgotten")
	}
	r.hub.fail(nil)
	r.clock.Advance(NotFoundFor)
	r.get(r.repo(app), "latest", Confirmed, "one")
}

func TestNotFoundIsRemembered(t *testing.T) {
	d := digest.FromString("none")
	withBox := failure(upstream.Denied, 401)
	withBox.Credentials = true
	for _, tc := range []struct {
		name       string
		err        *upstream.Error
		restricted bool
		remembered bool
	}{
		{"not found", missing, false, true},
		{"withdrawn", failure(upstream.Withdrawn, 451), false, true},
		{"denied to an anonymous client", denied, false, true},
		{"denied to the box's credentials", withBox, false, false},
		{"unreachable", down, false, false},
		{"restricted", missing, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			repo := r.repo(app)
			if tc.restricted {
				repo.Restricted = &Restricted{Links: links{}}
			}
			r.hub.fail(tc.err)
			for what, ask := range map[string]func() error{
				"GET tag":    func() error { _, err := r.Get(t.Context(), repo, "none"); return err },
				"GET digest": func() error { _, err := r.Digest(t.Context(), repo, d); return err },
				"HEAD tag":   func() error { _, err := r.Head(t.Context(), repo, "other"); return err },
			} {
				r.hub.mu.Lock()
				r.hub.asked = nil
				r.hub.mu.Unlock()
				for i := range 3 {
					if i == 2 {
						r.clock.Advance(NotFoundFor)
					}
					if err := ask(); !errors.Is(err, tc.err) || Remembered(err) != (tc.remembered && i == 1) {
						t.Errorf("%s, request %d: %v, remembered %v", what, i+1, err, Remembered(err))
					}
				}
				want := 3
				if tc.remembered {
					want = 2
				}
				if n := len(r.hub.asked); n != want {
					t.Errorf("%s: asked %d times, want %d", what, n, want)
				}
			}
		})
	}
}

// waiting is a context that reports when its owner waits.
type waiting struct {
	context.Context
	once *sync.WaitGroup
	said *sync.Once
}

func (w waiting) Done() <-chan struct{} {
	w.said.Do(w.once.Done)
	return w.Context.Done()
}

// TestOneRequestForAll: concurrent requests for one thing are one upstream
// request, also when the client that began it has left.
func TestOneRequestForAll(t *testing.T) {
	const clients = 64
	d := digest.FromString("one")
	for name, tc := range map[string]struct {
		known bool
		ask   func(r *rig, ctx context.Context) (Answer, error)
		want  string
		first State
		later State
	}{
		"cold GET":  {false, func(r *rig, ctx context.Context) (Answer, error) { return r.Get(ctx, r.repo(app), "latest") }, "GET owner/app latest", Fetched, Joined},
		"by digest": {false, func(r *rig, ctx context.Context) (Answer, error) { return r.Digest(ctx, r.repo(app), d) }, "GET owner/app " + d.String(), Fetched, Joined},
		"cold HEAD": {false, func(r *rig, ctx context.Context) (Answer, error) { return r.Head(ctx, r.repo(app), "latest") }, "HEAD owner/app latest", HeadOnly, HeadOnly},
		"check":     {true, func(r *rig, ctx context.Context) (Answer, error) { return r.Get(ctx, r.repo(app), "latest") }, "HEAD owner/app latest", Confirmed, Confirmed},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.hub.push(app, "latest", "one")
			if tc.known {
				r.get(r.repo(app), "latest", Fetched, "one")
				r.hub.wasAsked(t, "GET owner/app latest")
				r.clock.Advance(time.Minute)
			}
			answer, asked := make(chan struct{}), make(chan struct{})
			r.hub.hook(func(string, string, string) error { close(asked); <-answer; return nil })
			first, leave := context.WithCancel(t.Context())
			left := make(chan error)
			go func() { _, err := tc.ask(r, first); left <- err }()
			<-asked
			var all, wait sync.WaitGroup
			states, mu := map[State]int{}, sync.Mutex{}
			for range clients {
				wait.Add(1)
				all.Go(func() {
					a, err := tc.ask(r, waiting{t.Context(), &wait, new(sync.Once)})
					if err != nil || a.Digest != d {
						t.Errorf("%+v, %v", a, err)
					}
					mu.Lock()
					defer mu.Unlock()
					states[a.State]++
				})
			}
			wait.Wait()
			leave()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("the first: %v", err)
			}
			close(answer)
			all.Wait()
			if want := (map[State]int{tc.later: clients}); !maps.Equal(states, want) {
				t.Errorf("states %v, want %v", states, want)
			}
			r.hub.wasAsked(t, tc.want)
		})
	}
}

// TestDigestWaitsForItsTag: a client that asks by digest while another fetches
// by tag waits for that fetch, which may bring the same manifest.
func TestDigestWaitsForItsTag(t *testing.T) {
	r := newRig(t)
	d := r.hub.push(app, "latest", "one")
	if err := r.o.Index.Close(); err != nil { // Badger cannot be used across a bubble's border
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r.t = t
		r.restart()
		defer r.Close()
		answer := make(chan struct{})
		r.hub.hook(func(string, string, string) error { <-answer; return nil })
		var all sync.WaitGroup
		all.Go(func() { r.get(r.repo(app), "latest", Fetched, "one") })
		synctest.Wait()
		all.Go(func() {
			a, err := r.Digest(t.Context(), r.repo(app), d)
			if err != nil || a.State != Fresh || string(a.Body) != "one" {
				t.Errorf("%+v, %v", a, err)
			}
		})
		synctest.Wait()
		close(answer)
		all.Wait()
		r.hub.wasAsked(t, "GET owner/app latest")
	})
}

func TestMovedTag(t *testing.T) {
	r := newRig(t)
	one := r.hub.push(app, "latest", "one")
	r.get(r.repo(app), "latest", Fetched, "one")
	seen := r.clock.Now()
	r.clock.Advance(time.Minute)
	two := r.hub.push(app, "latest", "two")
	r.get(r.repo(app), "latest", Fetched, "two")
	r.hub.wasAsked(t, "GET owner/app latest", "HEAD owner/app latest", "GET owner/app "+two.String())
	r.restart()
	r.get(r.repo(app), "latest", Fresh, "two")

	earlier := 0
	r.clock.Advance(time.Minute)
	for a := range r.Earlier(r.repo(app), "latest") {
		if earlier++; a.Digest != one || a.State != Earlier || a.Age != 2*time.Minute {
			t.Errorf("earlier: %+v", a)
		}
	}
	known := maps.Collect(r.Known("docker.io", app))
	tag := known[index.Name{Registry: "docker.io", Repository: app, Kind: index.KindTag, Name: "latest"}]
	if earlier != 1 || len(known) != 1 || tag.Digest != two || tag.Via != index.ViaCheck || !tag.FirstSeen.Equal(seen.Add(time.Minute)) {
		t.Errorf("%d earlier; known: %+v", earlier, known)
	}
	if want := (index.Earlier{Digest: one, FirstSeen: seen.Unix(), Confirmed: seen.Unix(), Via: index.ViaPull}); len(tag.Earlier) != 1 || tag.Earlier[0] != want {
		t.Errorf("history %+v, want %+v", tag.Earlier, want)
	}
}

// TestMovedToNothing: until the manifest that a tag moved to is stored, the old
// one is served.
func TestMovedToNothing(t *testing.T) {
	for name, err := range map[string]error{"not found": missing, "unreachable": down} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.hub.push(app, "latest", "one")
			r.get(r.repo(app), "latest", Fetched, "one")
			r.hub.push(app, "latest", "two")
			r.hub.hook(func(method, _, _ string) error {
				if method == "GET" {
					return err
				}
				return nil
			})
			r.clock.Advance(time.Minute)
			r.get(r.repo(app), "latest", Stale, "one")
			r.restart()
			r.hub.fail(nil)
			r.get(r.repo(app), "latest", Fetched, "two")
		})
	}
}

// TestEvictedManifest: the manifest of a fresh tag is fetched by digest, and by
// tag if the digest is gone.
func TestEvictedManifest(t *testing.T) {
	r := newRig(t)
	one := r.hub.push(app, "latest", "one")
	r.get(r.repo(app), "latest", Fetched, "one")
	r.store.evict()
	r.get(r.repo(app), "latest", Fetched, "one")
	r.hub.wasAsked(t, "GET owner/app latest", "GET owner/app "+one.String())
	r.store.evict()
	r.hub.push(app, "latest", "two")
	r.get(r.repo(app), "latest", Fetched, "two")
	r.hub.wasAsked(t, "GET owner/app "+one.String(), "GET owner/app latest")
}
