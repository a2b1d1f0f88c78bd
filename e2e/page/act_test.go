package page

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/freshness"
	"hubcap/proxy/jobs"
)

// deed is an action through the page: where it begins, what is filled in, the button
// that leads to its form where the path does not, what is shown before it is done and
// after, and how the API tells that it is done.
type deed struct {
	action, path string
	fields       map[string]string
	says, done   string
	check        func(t *testing.T, b *box)
}

// tagIs checks a tag's state.
func tagIs(ref string, state freshness.TagState) func(*testing.T, *box) {
	return func(_ *testing.T, b *box) {
		eventually(b, "image/history?ref="+url.QueryEscape(ref), func(h api.TagHistory) bool { return h.Tag.State == state })
	}
}

// pinned checks whether an image is pinned.
func pinned(ref string, want bool) func(*testing.T, *box) {
	return func(_ *testing.T, b *box) {
		eventually(b, "pins", func(p api.Pins) bool {
			return want == slices.ContainsFunc(p.Pins, func(one api.Pin) bool { return one.Ref == ref })
		})
	}
}

// jobOf checks that there is a job of a kind in a state.
func jobOf(kind jobs.Kind, what string, state jobs.State) func(*testing.T, *box) {
	return func(_ *testing.T, b *box) {
		eventually(b, "jobs", func(all api.Jobs) bool {
			return slices.ContainsFunc(all.Jobs, func(j api.Job) bool {
				return j.Kind == kind && strings.Contains(j.What, what) && j.State == state
			})
		})
	}
}

// offline checks whether the box is offline.
func offline(want bool) func(*testing.T, *box) {
	return func(_ *testing.T, b *box) {
		eventually(b, "offline", func(o api.Offline) bool { return o.On == want })
	}
}

var deeds = []deed{
	{"Pin", "/image?ref=nginx:1.27", map[string]string{"note": markup}, "is pinned", "It is pinned.", pinned("docker.io/library/nginx:1.27", true)},
	{"Unpin", "/image?ref=nginx:1.27", nil, "may be evicted", "It is not pinned any more.", pinned("docker.io/library/nginx:1.27", false)},
	{"Freeze", "/image?ref=nginx:1.27", map[string]string{"note": "before the release"}, "until it is thawed", "It is frozen", tagIs("nginx:1.27", freshness.Frozen)},
	{"Thaw", "/image?ref=nginx:1.27", nil, "what its registry names", "It follows its registry again.", tagIs("nginx:1.27", freshness.Following)},
	{"Roll back", "/image?ref=nginx:1.27", nil, "Clients are given", "It is rolled back", tagIs("nginx:1.27", freshness.Frozen)},
	{"Adopt", "/image?ref=app:rolling", nil, "Clients are given", "It has moved.", tagIs("app:rolling", freshness.Following)},
	{"Warm", "/jobs", map[string]string{"refs": "fresh:v1"}, "fetched; that takes", "They are being fetched.", jobOf(jobs.Warm, "fresh:v1", jobs.Done)},
	{"Verify", "/image?ref=alpine:3.20", nil, "A job hashes", "The files are being hashed.", jobOf(jobs.Verify, "alpine", jobs.Done)},
	{"End", "/jobs", nil, "Not fetched every", "The schedule is ended.", func(_ *testing.T, b *box) {
		eventually(b, "schedules", func(s api.Schedules) bool { return len(s.Schedules) == 0 })
	}},
	{"Go offline", "/outage", nil, "No registry is asked", "No registry is asked now.", offline(true)},
	{"Go online", "/outage", nil, "Registries are asked again", "Registries are asked again.", offline(false)},
	{"Purge", "/image?ref=other:v1", nil, "would go", "It is removed.", func(_ *testing.T, b *box) {
		eventually(b, "images?q=other", func(p api.Images) bool {
			return !slices.ContainsFunc(p.Images, func(i api.Image) bool { return i.Held > 0 })
		})
	}},
	{"Make room", "/next?bytes=1000000000", nil, "object", "There is more room now.", func(_ *testing.T, b *box) {
		eventually(b, "eviction?bytes=1000000000", func(e api.Eviction) bool { return e.Count == 0 })
	}},
	{"Repair", "/outage", nil, "This fetches", "What is missing is being fetched.", jobOf(jobs.Repair, "", jobs.Done)},
	{"Cancel", "/jobs", nil, "The job ends", "The job is ended.", jobOf(jobs.Warm, "endless:v1", jobs.Cancelled)},
}

// TestActions does everything that can be done, through the page alone: with script
// and without. The API tells what has come of it, and the console says nothing.
func TestActions(t *testing.T) {
	for _, l := range []look{{}, {noScript: true}} {
		name := "script"
		if l.noScript {
			name = "no script"
		}
		t.Run(name, func(t *testing.T) {
			b := start(t)
			b.fill()
			b.Hub.Image("library/fresh", "v1", fakehub.RandomBlob(30, 100_000))
			p := b.browse(t, l)
			p.login(b.Token("admin-token"))
			for _, one := range deeds {
				if one.action == "Cancel" {
					b.Hub.Image("library/endless", "v1", fakehub.RandomBlob(31, 30_000_000))
					b.Hub.Script(fakehub.Always(&fakehub.Fault{Rate: 50_000}, fakehub.OfKind(fakehub.KindCDN)))
					b.ask("POST", "warm", map[string]any{"refs": []string{"endless:v1"}}, nil)
				}
				if one.action == "Repair" {
					b.ask("POST", "purge", map[string]any{"digest": b.spare}, nil)
					eventually(b, "outage", func(o api.Outage) bool { return o.Ready < o.Images && o.Repair.Objects > 0 })
				}
				p.act(one)
				one.check(t, b)
			}
			p.quiet()
		})
	}
}

// act does a deed.
func (p *browser) act(one deed) {
	p.t.Helper()
	p.open(one.path)
	p.press(one.action)
	for name, text := range one.fields {
		p.must(chromedp.Do(p.ctx, chromedp.SendKeys("#f-"+name, text)))
	}
	if len(one.fields) > 0 {
		p.press("Show what will happen")
	}
	p.sees("What will happen")
	p.sees(one.says)
	p.confirm()
	p.sees(one.done)
}

// TestLooking logs in with the view token: every page is shown, and nothing on any of
// them changes anything.
func TestLooking(t *testing.T) {
	b := start(t)
	b.fill()
	p := b.browse(t, look{})
	p.login(b.Token("view-token"))
	for _, one := range pages {
		if strings.HasPrefix(one.name, "act") {
			continue
		}
		p.open(one.path)
		p.sees(one.shows)
		n, err := chromedp.Run(p.ctx, chromedp.Evaluate[int](`document.querySelectorAll("main form[method=post], a[href^='/do/']").length`))
		p.must(err)
		if n > 0 {
			p.t.Errorf("%s has %d forms or links that change something", one.path, n)
		}
	}
	p.quiet()
}

// TestLive leaves the first page open while a download begins, runs and ends.
func TestLive(t *testing.T) {
	b := start(t)
	p := b.browse(t, look{})
	p.login(b.Token("admin-token"))
	p.sees("None. A pull of something")
	b.slowFill(t)
	p.sees("of 30 MB")
	first, err := chromedp.Run(p.ctx, chromedp.Evaluate[float64](`document.querySelector("progress").value`))
	p.must(err)
	_, err = chromedp.Run(p.ctx, chromedp.Poll[bool](`document.querySelector("progress")?.value > `+fmt.Sprint(first), chromedp.WithPollingTimeout(soon)))
	p.must(err)
	b.Hub.Script(nil)
	p.quiet()
}
