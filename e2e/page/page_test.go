package page

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// pages are all pages with what each shows of the box of fill.
var pages = []struct{ name, path, shows string }{
	{"now", "/", "saved today"},
	{"now-year", "/?chart=1y", "1 year"},
	{"images", "/images", "docker.io/library/python:3.12"},
	{"images-none", "/images?q=nothing-like-this", "No image is like that"},
	{"image", "/image?ref=nginx:1.27", "History of the tag"},
	{"image-frozen", "/image?ref=python:3.12", "linux/arm64"},
	{"outage", "/outage", "would survive"},
	{"jobs", "/jobs", "Again and again"},
	{"upstreams", "/upstreams", "registry.corp.example"},
	{"clients", "/clients", "containerd"},
	{"requests", "/requests", "library/gone"},
	{"next", "/next", "Next to go"},
	{"setup", "/setup", "Each kind of client"},
	{"help", "/help", "frequent mistakes"},
	{"act", "/do/freeze?ref=nginx:1.27", "What will happen"},
	{"act-form", "/do/warm", "A reference a line"},
	{"act-purge", "/do/purge?repository=library/*", "What will happen"},
}

var looks = []look{{}, {dark: true}, {phone: true}, {phone: true, dark: true}}

// slowFill begins a download that lasts as long as the test.
func (b *box) slowFill(t *testing.T) {
	t.Helper()
	img := b.Hub.Image("library/large", "v1", fakehub.RandomBlob(20, 30_000_000))
	b.Hub.Script(fakehub.Always(&fakehub.Fault{Rate: 200_000}, fakehub.OfKind(fakehub.KindCDN)))
	go func() {
		resp, err := http.Get("http://" + b.Mirror + "/v2/library/large/blobs/" + img.Layers[0].Digest.String())
		if err == nil {
			<-t.Context().Done()
			_ = resp.Body.Close()
		}
	}()
}

// TestPages opens every page in every look: each shows what it should, nothing runs
// that a name has brought, nothing is wider than the window, and axe-core finds no
// violation of WCAG 2.2 AA.
func TestPages(t *testing.T) {
	axe := axeCore(t)
	b := start(t)
	b.fill()
	b.slowFill(t)
	for _, l := range looks {
		t.Run(l.String(), func(t *testing.T) {
			p := b.browse(t, l)
			p.open("/")
			p.sees("Sign in")
			p.checks(axe, "signin", l)
			p.login(b.Token("admin-token"))
			for _, one := range pages {
				p.open(one.path)
				p.sees(one.shows)
				p.checks(axe, one.name, l)
			}
			p.quiet()
		})
	}
}

// TestEmptyPages opens every page of a box that nobody has used.
func TestEmptyPages(t *testing.T) {
	axe := axeCore(t)
	b := start(t)
	p := b.browse(t, look{})
	p.login(b.Token("admin-token"))
	for _, one := range pages {
		if strings.HasPrefix(one.name, "act") || strings.HasPrefix(one.path, "/image?") {
			continue
		}
		p.open(one.path)
		p.checks(axe, "empty-"+one.name, look{})
	}
	p.quiet()
}

// checks checks the open page.
func (p *browser) checks(axe, name string, l look) {
	p.t.Helper()
	p.shoot(name + "-" + l.String())
	title, err := chromedp.Run(p.ctx, chromedp.Title())
	p.must(err)
	if title == "owned" || !strings.Contains(title, "hubcap") {
		p.t.Errorf("%s: the title is %q", name, title)
	}
	wide, err := chromedp.Run(p.ctx, chromedp.Evaluate[int](`document.documentElement.scrollWidth - document.documentElement.clientWidth`))
	p.must(err)
	if wide > 0 {
		p.t.Errorf("%s: the page is %d pixels wider than the window", name, wide)
	}
	if l.phone {
		p.targets(name)
	}
	found, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](axe+`; axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
		.then(r => r.violations.map(v => v.id + ": " + v.help + ": " + v.nodes.map(n => n.html).join(" | ")))`, chromedp.EvalAwaitPromise))
	p.must(err)
	for _, one := range found {
		p.t.Errorf("%s, %s: %s", name, l, one)
	}
}

// targets checks that what a finger is to hit is 44 pixels high: buttons, fields and
// the menu.
func (p *browser) targets(name string) {
	p.t.Helper()
	small, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll("button:not(.plain), .button:not(.to-dark):not(.to-light), select, input:not([type=hidden]):not([type=checkbox]):not([hidden]), .menu a, .figures a")]
		.filter(e => e.getBoundingClientRect().height < 44).map(e => e.outerHTML)`))
	p.must(err)
	if len(small) > 0 {
		p.t.Errorf("%s: lower than 44 pixels: %s", name, strings.Join(small, "\n"))
	}
}

// axeCore returns the script of axe-core, which CI installs.
func axeCore(t *testing.T) string {
	t.Helper()
	home, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(home, "hubcap-e2e", "axe.min.js"))
	if err != nil {
		testkit.Missing(t, "axe-core is not installed")
	}
	return string(script)
}
