package freshness

import (
	"maps"
	"sync"
	"testing"

	"hubcap/proxy/upstream"
)

// restricted is the repository as a client with a token sees it.
func (r *rig) restricted(name, client string, all links) Repository {
	repo := r.repo(name)
	repo.Restricted = &Restricted{Links: all, Client: client}
	return repo
}

// TestRestrictedIsSeparate: what is learned of a restricted repository is not
// served once it is public, nor the other way round.
func TestRestrictedIsSeparate(t *testing.T) {
	r := newRig(t)
	public, own := r.repo(app), r.restricted(app, "a", links{})
	r.hub.push(app, "latest", "one")
	r.hub.listed = []string{"latest"}
	r.get(own, "latest", Fetched, "one")
	r.tagList(own, Fetched, `["latest"]`)
	r.hub.asked = nil
	if r.Knows(public, "latest") || r.KnowsTags(public) {
		t.Error("the public repository knows what the restricted one does")
	}
	r.hub.fail(missing)
	r.fails(public, upstream.NotFound)
	r.hub.wasAsked(t, "GET owner/app latest")
	r.get(own, "latest", Fresh, "one") // what was not found in public was found here
	r.hub.fail(nil)
	r.clock.Advance(NotFoundFor)
	r.get(public, "latest", Fetched, "one")
	if n := len(maps.Collect(r.Known("docker.io", app))); n != 3 {
		t.Errorf("%d names are known", n)
	}
}

// TestRestrictedManifest is seen where it is linked, and came from.
func TestRestrictedManifest(t *testing.T) {
	r := newRig(t)
	all := links{}
	d := r.hub.push(app, "latest", "one")
	r.get(r.restricted(app, "a", all), "latest", Fetched, "one")
	r.hub.fail(denied)
	elsewhere := r.restricted(app, "a", all)
	elsewhere.Host = "ghcr.io"
	for name, repo := range map[string]Repository{
		"public":              r.repo(app),
		"not linked":          r.restricted("owner/other", "a", links{}),
		"of another registry": elsewhere,
	} {
		if a, err := r.Digest(t.Context(), repo, d); !upstream.IsKind(err, upstream.Denied) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	if a, err := r.Digest(t.Context(), r.restricted("owner/fork", "b", all), d); err != nil || a.State != Fresh {
		t.Errorf("linked: %+v, %v", a, err)
	}
}

// TestClientsDoNotShareAnswers: each client's token is asked with; where no
// client is named, requests are shared.
func TestClientsDoNotShareAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		clients [2]string
		asked   int
	}{"each its own": {[2]string{"a", "b"}, 2}, "the box's credentials": {[2]string{"", ""}, 1}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.hub.push(app, "latest", "one")
			answer, asked := make(chan struct{}), make(chan struct{}, 2)
			r.hub.hook(func(string, string, string) error { asked <- struct{}{}; <-answer; return nil })
			var all, wait sync.WaitGroup
			for i, client := range tc.clients {
				wait.Add(1)
				repo := r.restricted(app, client, links{})
				all.Go(func() {
					ctx := waiting{t.Context(), &wait, new(sync.Once)}
					if a, err := r.Get(ctx, repo, "latest"); err != nil || string(a.Body) != "one" {
						t.Errorf("%+v, %v", a, err)
					}
				})
				if i == 0 {
					<-asked
				}
			}
			wait.Wait()
			close(answer)
			all.Wait()
			if n := len(r.hub.asked); n != tc.asked {
				t.Errorf("asked %q", r.hub.asked)
			}
		})
	}
}
