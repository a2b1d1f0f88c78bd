package freshness

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// TestKnown iterates over tags in memory, on their way to the index and in it,
// and leaves out those that were forgotten.
func TestKnown(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	r.hub.push("owner/other", "v1", "two")
	r.get(r.repo(app), "latest", Fetched, "one")
	r.get(r.repo("owner/other"), "v1", Fetched, "two")
	app, other := r.repo(app).tag("latest"), r.repo("owner/other").tag("v1")
	check := func(registry, repository string, want ...index.Name) {
		t.Helper()
		got := maps.Collect(r.Known(registry, repository))
		for _, name := range want {
			if got[name].Digest == "" {
				t.Errorf("%s is missing", name)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d known, want %d", len(got), len(want))
		}
	}
	check("", "", app, other)
	r.restart()
	check("", "", app, other) // from the index
	check("docker.io", "owner/app", app)
	check("ghcr.io", "")
	if s := r.Status(); s.TagsInMemory != 0 || s.Unwritten != 0 {
		t.Errorf("%+v", s)
	}
	r.hub.fail(down)
	r.clock.Advance(time.Minute)
	r.get(r.repo("owner/app"), "latest", Stale, "one")
	for name, tag := range r.Known("docker.io", "owner/app") {
		if name != app || !tag.Failing.Equal(r.clock.Now()) {
			t.Errorf("%s: failing since %v", name, tag.Failing)
		}
	}
	r.hub.fail(missing)
	r.clock.Advance(checkAgain)
	r.fails(r.repo("owner/app"), upstream.NotFound)
	check("", "", other)
	r.restart()
	check("", "", other)
	r.hub.fail(down)
	r.get(r.repo("owner/other"), "v1", Stale, "two")
	_ = r.o.Index.Close()
	r.get(r.repo("owner/other"), "v1", Stale, "two") // from memory, while the index fails
	check("", "", other)
}

// TestKnownUnderLoad iterates while tags come and go.
func TestKnownUnderLoad(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil && i < 1000; i++ {
				name := r.repo(app).tag("latest")
				if _, err := r.Get(t.Context(), r.repo(app), "latest"); err != nil {
					t.Error(err)
				}
				if tag, ok := r.tags.get(name); ok {
					r.forget(name, tag)
				}
			}
		})
	}
	for range 100 {
		for name, tag := range r.Known("", "") {
			if name != r.repo(app).tag("latest") || tag.Digest == "" {
				t.Errorf("%s: %+v", name, tag)
			}
		}
		r.Status()
	}
	cancel()
	all.Wait()
}

// TestStaleRegistries shows that a registry is in the status from its first
// stale answer until five minutes after the last.
func TestStaleRegistries(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	r.get(r.repo(app), "latest", Fetched, "one")
	if s := r.Status().Stale; len(s) != 0 {
		t.Errorf("before: %+v", s)
	}
	r.hub.fail(down)
	r.clock.Advance(time.Minute)
	since := r.clock.Now()
	r.get(r.repo(app), "latest", Stale, "one")
	r.clock.Advance(staleFor - time.Second)
	r.get(r.repo(app), "latest", Stale, "one")
	r.clock.Advance(staleFor - time.Second)
	if s := r.Status().Stale; len(s) != 1 || s[0].Registry != "docker.io" || !s[0].Since.Equal(since) || s[0].Answers != 2 {
		t.Errorf("meanwhile: %+v", s)
	}
	r.clock.Advance(time.Second)
	if s := r.Status().Stale; len(s) != 0 {
		t.Errorf("afterwards: %+v", s)
	}
}
