package freshness

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/upstream"
)

// history is a rig whose tag latest of app has named the bodies, one a day.
func history(t *testing.T, bodies ...string) (*rig, Repository) {
	r := newRig(t)
	for _, body := range bodies {
		r.hub.push(app, "latest", body)
		r.clock.Advance(24 * time.Hour)
		r.get(r.repo(app), "latest", Fetched, body)
	}
	return r, r.repo(app)
}

// rollback freezes a tag to the digest in its history that to stands for.
func (r *rig) rollback(repo Repository, tag, to string, o FreezeOrder) (TagStatus, error) {
	line, err := r.RollbackTo(repo, tag, to)
	if err != nil {
		return TagStatus{}, err
	}
	o.Digest = line.Digest
	return r.Freeze(r.t.Context(), repo, tag, o)
}

func TestRollback(t *testing.T) {
	r, repo := history(t, "one", "two", "three")
	back := func(to, want string) {
		t.Helper()
		if s, err := r.rollback(repo, "latest", to, FreezeOrder{Note: "bad"}); err != nil || s.Digest != digest.FromString(want) || s.State != Frozen {
			t.Errorf("%+v, %v", s, err)
		}
		r.get(repo, "latest", Fresh, want)
	}
	back("", "two")
	r.state(repo, "latest", Frozen, "two", "three")
	back("", "one") // further
	if _, err := r.rollback(repo, "latest", "", FreezeOrder{}); !errors.Is(err, ErrNotInHistory) {
		t.Error(err)
	}
	back(digest.FromString("three").String()[:15], "three")
	r.state(repo, "latest", Frozen, "three", "")
	back(digest.FromString("one").Encoded()[:10], "one")
	if _, err := r.rollback(repo, "latest", "sha256:", FreezeOrder{}); !errors.Is(err, ErrAmbiguous) {
		t.Error(err)
	}
	r.restart()
	r.state(repo, "latest", Frozen, "one", "three")
	lines, _, err := r.History(repo, "latest")
	if err != nil || len(lines) != 3 {
		t.Errorf("%+v, %v", lines, err)
	}
	for i, body := range []string{"three", "two", "one"} {
		if l := lines[i]; l.Digest != digest.FromString(body) || !l.Served || l.Current != (body == "one") || l.Registry != (body == "three") || l.Via == "operator" {
			t.Errorf("line %d: %+v", i, l)
		}
	}
	if _, err := r.Thaw(repo, "latest"); err != nil {
		t.Error(err)
	}
	r.get(repo, "latest", Fresh, "three") // held, and asked for
	r.state(repo, "latest", Following, "three", "")
}

// TestThawedToWhatWasServed: what was served before a rollback needs no
// cool-down after it.
func TestThawedToWhatWasServed(t *testing.T) {
	r, repo := history(t, "one", "two")
	r.o.Cooldowns = []Cooldown{{"*", "*", 1000 * time.Hour}}
	r.restart()
	if _, err := r.rollback(repo, "latest", "", FreezeOrder{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Thaw(repo, "latest"); err != nil {
		t.Fatal(err)
	}
	r.get(repo, "latest", Fresh, "two")
}

// TestFreezeFetches: a freeze begins once its image is held whole.
func TestFreezeFetches(t *testing.T) {
	r, repo := history(t, "one")
	two := r.hub.push(app, "other", "two")
	freeze := func(fetch func(context.Context, digest.Digest) error) (TagStatus, error) {
		return r.Freeze(t.Context(), repo, "latest", FreezeOrder{Digest: two, Fetch: fetch})
	}
	failed := errors.New("gone")
	for name, fetch := range map[string]func(context.Context, digest.Digest) error{
		"nobody fetches": nil,
		"it fails":       func(context.Context, digest.Digest) error { return failed },
		"it lacks a part": func(context.Context, digest.Digest) error {
			r.store.lack(two)
			_, err := r.Digest(t.Context(), repo, two)
			return err
		},
	} {
		if _, err := freeze(fetch); !errors.Is(err, ErrNotHeld) || name == "it fails" && !errors.Is(err, failed) {
			t.Errorf("%s: %v", name, err)
		}
		r.state(repo, "latest", Following, "one", "")
		r.store.evict()
		r.store.lack()
		r.get(repo, "latest", Fetched, "one")
	}
	s, err := freeze(func(ctx context.Context, d digest.Digest) error {
		r.state(repo, "latest", Following, "one", "")
		_, err := r.Digest(ctx, repo, d)
		return err
	})
	if err != nil || s.Digest != two || s.Moved.Digest != digest.FromString("one") {
		t.Errorf("%+v, %v", s, err)
	}
	r.get(repo, "latest", Fresh, "two")
	if lines, _, _ := r.History(repo, "latest"); len(lines) != 2 || lines[0].Via != "operator" {
		t.Errorf("%+v", lines)
	}
	r.store.evict() // the manifest of a frozen tag is fetched by its digest, and nothing else is served
	r.get(repo, "latest", Fetched, "two")
	r.store.evict()
	delete(r.hub.tags, app+":other")
	r.clock.Advance(NotFoundFor)
	r.fails(repo, upstream.NotFound)
	r.state(repo, "latest", Frozen, "two", "one")
}

func TestRefusedOrders(t *testing.T) {
	r, repo := history(t, "one")
	own := repo
	own.Restricted = &Restricted{Links: links{}, Client: "a client"}
	now := r.clock.Now()
	for name, tc := range map[string]struct {
		repo  Repository
		tag   string
		order FreezeOrder
		want  error
	}{
		"unknown":     {repo, "other", FreezeOrder{}, ErrUnknownTag},
		"passthrough": {own, "latest", FreezeOrder{}, ErrPassthrough},
		"no digest":   {repo, "latest", FreezeOrder{Digest: "sha256:12"}, ErrOrder},
		"past":        {repo, "latest", FreezeOrder{Until: now}, ErrOrder},
		"year 10000":  {repo, "latest", FreezeOrder{Until: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, ErrOrder},
		"long note":   {repo, "latest", FreezeOrder{Note: strings.Repeat("x", maxNote+1)}, ErrOrder},
		"long name":   {repo, "latest", FreezeOrder{By: strings.Repeat("x", maxNote+1)}, ErrOrder},
	} {
		if _, err := r.Freeze(t.Context(), tc.repo, tc.tag, tc.order); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, order := range []func() (TagStatus, error){
		func() (TagStatus, error) { return r.Thaw(repo, "other") },
		func() (TagStatus, error) { return r.Adopt(t.Context(), repo, "other") },
		func() (TagStatus, error) { return r.rollback(repo, "other", "", FreezeOrder{}) },
	} {
		if _, err := order(); !errors.Is(err, ErrUnknownTag) {
			t.Error(err)
		}
	}
	if _, err := r.Adopt(t.Context(), repo, "latest"); !errors.Is(err, ErrNotCooling) {
		t.Error(err)
	}
	r.state(repo, "latest", Following, "one", "")
	_ = r.o.Index.Close()
	if _, err := r.Freeze(t.Context(), repo, "latest", FreezeOrder{}); !errors.Is(err, ErrNotSaved) {
		t.Errorf("while the index fails: %v", err)
	}
	r.get(repo, "latest", Fresh, "one")
	r.state(repo, "latest", Frozen, "one", "")
}

// TestOrdersUnderLoad: an answer that is on its way does not undo an order.
func TestOrdersUnderLoad(t *testing.T) {
	r := newRig(t)
	repo := r.repo(app)
	repo.TTL = 0 // every answer asks
	one := r.hub.push(app, "latest", "one")
	r.get(repo, "latest", Fetched, "one")
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, body := range []string{"two", "three"} {
		all.Go(func() {
			for ctx.Err() == nil {
				r.hub.push(app, "latest", body)
				r.store.PutManifest(cache.Manifest{Digest: one, Body: []byte("one")}, func() {})
				if _, err := r.Get(t.Context(), repo, "latest"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 200 {
		s, err := r.Freeze(t.Context(), repo, "latest", FreezeOrder{Digest: one})
		if err != nil || s.State != Frozen || s.Digest != one {
			t.Fatalf("%d: %+v, %v", i, s, err)
		}
		for range 20 {
			if _, s, err := r.History(repo, "latest"); err != nil || s.State != Frozen || s.Digest != one {
				t.Fatalf("%d: the freeze was undone: %+v, %v", i, s, err)
			}
			if a, err := r.Get(t.Context(), repo, "latest"); err != nil || a.Digest != one && a.Tag == Frozen {
				t.Fatalf("%d: %+v, %v", i, a, err)
			}
		}
		if _, err := r.Thaw(repo, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	all.Wait()
}
