package freshness

import (
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/upstream"
)

// tagList asks for the tags and compares the answer's state and body.
func (r *rig) tagList(repo Repository, state State, body string) {
	r.t.Helper()
	a, err := r.Tags(r.t.Context(), repo)
	if err != nil || a.State != state || string(a.Body) != body || a.MediaType != "application/json" {
		r.t.Errorf("Tags = state %d, %q, %v; want state %d, %q", a.State, a.Body, err, state, body)
	}
}

func TestTags(t *testing.T) {
	r := newRig(t)
	repo := r.repo(app)
	if _, err := r.Tags(t.Context(), repo); !isGone(err) || r.KnowsTags(repo) {
		t.Error(err)
	}
	if _, err := r.Tags(t.Context(), repo); !Remembered(err) {
		t.Error("not found was not remembered:", err)
	}
	r.clock.Advance(NotFoundFor)
	r.hub.listed = []string{"1", "2"}
	r.tagList(repo, Fetched, `["1","2"]`)
	r.clock.Advance(time.Minute - 1)
	r.tagList(repo, Fresh, `["1","2"]`)
	r.hub.wasAsked(t, "TAGS owner/app ", "TAGS owner/app ")
	r.clock.Advance(1)
	r.tagList(repo, Confirmed, `["1","2"]`)
	r.hub.listed = []string{"1", "2", "3"}
	r.clock.Advance(time.Minute)
	r.tagList(repo, Fetched, `["1","2","3"]`)

	r.restart()
	r.tagList(repo, Fresh, `["1","2","3"]`)
	r.clock.Advance(time.Minute)
	r.hub.fail(down)
	r.tagList(repo, Stale, `["1","2","3"]`)
	r.hub.listed = nil
	r.hub.fail(nil)
	r.clock.Advance(checkAgain)
	if _, err := r.Tags(t.Context(), repo); !isGone(err) || r.KnowsTags(repo) {
		t.Error("deleted:", err)
	}
}

// TestListRules: a rule for some tags says nothing of the list, nor does one by
// which tags never move.
func TestListRules(t *testing.T) {
	for name, tc := range map[string]struct {
		rule Rule
		ttl  time.Duration
	}{
		"some tags": {Rule{Repository: app, Tag: "latest", TTL: time.Hour}, time.Minute},
		"all tags":  {Rule{Repository: app, Tag: "*", TTL: time.Hour}, time.Hour},
		"immutable": {Rule{Repository: app, Tag: "*", Immutable: true}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tc.rule)
			r.hub.listed = []string{"1"}
			r.tagList(r.repo(app), Fetched, `["1"]`)
			r.clock.Advance(tc.ttl - 1)
			r.tagList(r.repo(app), Fresh, `["1"]`)
			r.clock.Advance(1)
			r.tagList(r.repo(app), Confirmed, `["1"]`)
		})
	}
}

// TestTooLong: that a list is too long is remembered for an hour.
func TestTooLong(t *testing.T) {
	r := newRig(t)
	r.hub.listed = []string{strings.Repeat("x", cache.MaxManifest)}
	for i := range 3 {
		if i == 2 {
			r.clock.Advance(tooLongFor)
		}
		if _, err := r.Tags(t.Context(), r.repo(app)); err == nil || !strings.Contains(err.Error(), upstream.ErrTooLong.Error()) || Remembered(err) != (i == 1) {
			t.Errorf("request %d: %v", i+1, err)
		}
	}
	r.hub.wasAsked(t, "TAGS owner/app ", "TAGS owner/app ")
}

// TestReferrers: a list that is not empty survives a restart; one that any
// client can cause does not, unless its subject is held.
func TestReferrers(t *testing.T) {
	r := newRig(t)
	repo := r.repo(app)
	held := r.hub.push(app, "latest", "held")
	r.get(repo, "latest", Fetched, "held")
	signed, madeUp := digest.FromString("signed"), digest.FromString("made up")
	r.hub.referrers[signed] = []string{`{"digest":"sha256:x"}`}
	for _, subject := range []digest.Digest{held, signed, madeUp} {
		a, err := r.Referrers(t.Context(), repo, subject)
		if err != nil || a.State != Fetched || a.Empty() != (subject != signed) {
			t.Errorf("%s: %+v, %v", subject, a, err)
		}
		if a, err = r.Referrers(t.Context(), repo, subject); err != nil || a.State != Fresh {
			t.Errorf("%s again: %+v, %v", subject, a, err)
		}
	}
	r.restart()
	for subject, want := range map[digest.Digest]bool{held: true, signed: true, madeUp: false} {
		if got := r.KnowsReferrers(repo, subject); got != want {
			t.Errorf("after a restart, the referrers of %s are known: %v", subject, got)
		}
	}
}
