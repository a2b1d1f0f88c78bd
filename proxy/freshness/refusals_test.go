package freshness

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
	"hubcap/proxy/upstream"
)

// known serves n repositories, and lets their tags become stale.
func (r *rig) known(n int) []string {
	r.t.Helper()
	var names []string
	for i := range n {
		name := fmt.Sprintf("owner/%d", i)
		names = append(names, name)
		r.hub.push(name, "latest", name)
		r.get(r.repo(name), "latest", Fetched, name)
		r.clock.Advance(time.Minute)
		r.get(r.repo(name), "latest", Confirmed, name)
	}
	r.clock.Advance(time.Minute)
	r.hub.asked = nil
	return names
}

// TestAllRefused: a registry that refuses several repositories and answers about
// none counts as failing.
func TestAllRefused(t *testing.T) {
	for n := 2; n <= 6; n++ {
		t.Run(fmt.Sprint(n, " repositories"), func(t *testing.T) {
			r := newRig(t)
			names := r.known(n)
			r.hub.fail(denied)
			for range 3 {
				r.get(r.repo(names[0]), "latest", Stale, names[0])
				r.clock.Advance(checkAgain)
			}
			refused := r.Status().Refusing
			if want := min(n, several); len(refused) != 1 || refused[0].Registry != "docker.io" || len(refused[0].Repositories) != want || !r.Refusing("docker.io") {
				t.Errorf("refusing: %+v, want %d", refused, want)
			}
			if strings.Count(r.log.String(), "all of docker.io refuses") != 1 {
				t.Errorf("log:\n%s", r.log)
			}
			if r.Refusing("ghcr.io") {
				t.Error("another registry refuses")
			}
			r.clock.Advance(refusedFor)
			if s := r.Status(); r.Refusing("docker.io") || len(s.Refusing) > 0 {
				t.Errorf("still refusing: %+v", s)
			}
			r.get(r.repo(names[1]), "latest", Stale, names[1])
			r.hub.fail(nil)
			r.clock.Advance(checkAgain)
			r.get(r.repo(names[0]), "latest", Confirmed, names[0])
			if r.Refusing("docker.io") {
				t.Error("still refusing after an answer")
			}
		})
	}
}

// TestOneRefused: a refused repository among others is an answer, and the others
// are asked about once a minute.
func TestOneRefused(t *testing.T) {
	r := newRig(t)
	names := r.known(4)
	r.hub.hook(func(_, repository, _ string) error {
		if repository == names[0] {
			return denied
		}
		return nil
	})
	r.fails(r.repo(names[0]), upstream.Denied)
	asked := len(r.hub.asked)
	if asked != 3 { // HEAD and GET of the one, HEAD of another
		t.Errorf("asked %q", r.hub.asked)
	}
	r.clock.Advance(NotFoundFor)
	r.fails(r.repo(names[0]), upstream.Denied)
	if len(r.hub.asked) != asked+2 {
		t.Errorf("asked %q", r.hub.asked[asked:])
	}
	if s := r.Status(); len(s.Refusing) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestTheOnlyRepositoryRefused cannot be compared with others.
func TestTheOnlyRepositoryRefused(t *testing.T) {
	r := newRig(t)
	names := r.known(1)
	r.hub.fail(denied)
	r.fails(r.repo(names[0]), upstream.Denied)
}

// TestRefusingTakesNoLock: every manifest that is served asks whether its
// registry refuses everything, which must not wait for a lock while none does.
func TestRefusingTakesNoLock(t *testing.T) {
	r := newRig(t)
	refusing := func() bool {
		r.refusals.mu.Lock()
		defer r.refusals.mu.Unlock()
		answer := make(chan bool, 1)
		go func() { answer <- r.Refusing("docker.io") }()
		select {
		case refusing := <-answer:
			return refusing
		case <-time.After(testkit.Patience):
			t.Fatal("it waits for the lock")
			return false
		}
	}
	if refusing() {
		t.Error("refusing before any refusal")
	}
	for _, name := range []string{"owner/1", "owner/2"} {
		r.refusals.note("docker.io", name)
	}
	if !r.Refusing("docker.io") {
		t.Error("not refusing after two refusals")
	}
	r.clock.Advance(refusedFor)
	if refusing() {
		t.Error("refusing after the refusals have expired")
	}
}

// TestFailing classifies errors.
func TestFailing(t *testing.T) {
	refusal := func(kind upstream.Kind, by upstream.Refusal) error {
		return &upstream.Error{Kind: kind, Status: 401, Refusal: by}
	}
	for name, tc := range map[string]struct {
		err                     error
		credentials, restricted bool
		want                    bool
	}{
		"unreachable":                      {down, false, false, true},
		"429":                              {failure(upstream.RateLimited, 429), false, false, true},
		"not found":                        {missing, false, false, false},
		"a 404 page":                       {refusal(upstream.NotFound, upstream.NotOCI), false, false, true},
		"withdrawn":                        {failure(upstream.Withdrawn, 451), false, false, false},
		"refused":                          {denied, false, false, false},
		"refused, restricted":              {denied, false, true, false},
		"refused with the box's":           {denied, true, false, true},
		"refused with the box's, shared":   {denied, true, true, true},
		"refused by the token service":     {refusal(upstream.Denied, upstream.ByTokenService), false, false, true},
		"the same, restricted":             {refusal(upstream.Denied, upstream.ByTokenService), false, true, false},
		"a refused token that grants it":   {refusal(upstream.Denied, upstream.DespiteToken), false, false, true},
		"an error of no upstream":          {errors.New("x"), false, false, false},
		"a client that has left meanwhile": {context.Canceled, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			repo := r.repo(app)
			r.hub.credentials = tc.credentials
			if tc.restricted {
				repo.Restricted = &Restricted{Links: links{}}
			}
			if got := r.failing(t.Context(), repo, tc.err); got != tc.want {
				t.Errorf("failing = %v", got)
			}
		})
	}
}

// TestManyRegistries keeps what is known of registries bounded.
func TestManyRegistries(t *testing.T) {
	r := newRig(t)
	for i := range 2 * registriesKept {
		r.refusals.note(fmt.Sprint(i, ".example"), app)
	}
	if n := r.refusals.registries.Len(); n != registriesKept {
		t.Errorf("%d registries", n)
	}
	if s := r.Status(); !reflect.DeepEqual(s, Status{}) {
		t.Errorf("%+v", s)
	}
}
