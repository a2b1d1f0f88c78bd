package page

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"hubcap/e2e/testkit"
)

// look is how a browser shows pages.
type look struct {
	dark, phone, noScript bool
}

func (l look) String() string {
	name := "desktop"
	if l.phone {
		name = "phone"
	}
	if l.dark {
		return name + "-dark"
	}
	return name + "-light"
}

// browser is a tab of a headless Chromium. What the console says is an error of the
// test.
type browser struct {
	t    *testing.T
	ctx  context.Context
	base string // URL of the box's admin port

	mu      sync.Mutex
	console []string
}

// browse opens a browser on a box's page, without a cookie.
func (b *box) browse(t *testing.T, l look) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		testkit.Missing(t, "chromium is not installed")
	}
	ctx, cancel := chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true), chromedp.UserDataDir(t.TempDir()),
	))
	ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
	p := &browser{t: t, ctx: ctx, base: b.Admin}
	said := chromedp.Console(ctx)
	var listening sync.WaitGroup
	listening.Go(func() {
		for m, err := range said {
			if err != nil {
				return
			}
			p.mu.Lock()
			p.console = append(p.console, m.String()+" "+m.URL)
			p.mu.Unlock()
		}
	})
	t.Cleanup(func() { stop(); cancel(); listening.Wait() })
	width, height := int64(1280), int64(900)
	if l.phone {
		width, height = 390, 844
	}
	scheme := "light"
	if l.dark {
		scheme = "dark"
	}
	p.must(chromedp.Do(ctx, chromedp.EmulateViewport(width, height)))
	_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
	})
	p.must(err)
	if l.noScript {
		_, err = chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		p.must(err)
	}
	return p
}

func (p *browser) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// quiet fails the test if the console has said anything.
func (p *browser) quiet() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.console) > 0 {
		p.t.Errorf("the console says: %s", strings.Join(p.console, "\n"))
	}
	p.console = nil
}

// open opens a page.
func (p *browser) open(path string) {
	p.t.Helper()
	p.must(chromedp.Do(p.ctx, chromedp.Navigate(p.base+path)))
}

// login logs in with a token by the form.
func (p *browser) login(token string) {
	p.t.Helper()
	p.open("/")
	p.must(chromedp.Do(p.ctx, chromedp.SendKeys("#token", token)))
	p.press("Sign in")
	p.sees("Log out")
}

// press presses the button, or follows the link, of a text in the content of the
// page, and waits for the page that it leads to.
func (p *browser) press(text string) {
	p.t.Helper()
	xpath := fmt.Sprintf(`//main//*[self::button or self::a][normalize-space(.)=%q]`, text)
	_, err := chromedp.RunResponse(p.ctx, chromedp.Click(xpath))
	p.must(err)
}

// confirm presses the button that does what the page says will happen.
func (p *browser) confirm() {
	p.t.Helper()
	_, err := chromedp.RunResponse(p.ctx, chromedp.Click("main form[method=post] button"))
	p.must(err)
}

// sees waits until the page shows a text.
func (p *browser) sees(text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, soon)
	defer cancel()
	body := ""
	for ctx.Err() == nil {
		shown, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
		if err == nil && strings.Contains(shown, text) {
			return
		}
		if err == nil {
			body = shown
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("the page does not show %q but:\n%s", text, body)
}

// shoot writes a picture of the whole page into the directory PAGE_SHOTS, if that
// is set.
func (p *browser) shoot(name string) {
	dir := os.Getenv("PAGE_SHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	p.must(err)
	p.must(os.WriteFile(dir+"/"+name+".png", picture, 0o600))
}
