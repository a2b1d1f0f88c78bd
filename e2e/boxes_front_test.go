package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// documented is a configuration of deploy/docs/site.md, the block that contains a word, with the names of a test in it.
func documented(t *testing.T, word string, oldnew ...string) string {
	t.Helper()
	page, err := os.ReadFile("../deploy/docs/site.md")
	if err != nil {
		t.Fatal(err)
	}
	for n, block := range strings.Split(string(page), "```") {
		if n%2 == 1 && strings.Contains(block, word) {
			return strings.NewReplacer(oldnew...).Replace(block[strings.Index(block, "\n")+1:])
		}
	}
	t.Fatalf("site.md has no block with %q", word)
	return ""
}

// pullsGoOn has clients pull through an address in front of the boxes while the one that answers there is killed: none of them
// goes to the registry itself while a box answers.
func (b *boxes) pullsGoOn(t *testing.T, address string, entry *siteBox) {
	t.Helper()
	names := []string{"dockerd", "ctr", "containerd2", "buildkit", "podman", "crane"}
	sessions := map[string]session{}
	for _, name := range names {
		sessions[name] = clientNamed(t, name).start(t, b.site, address)
	}
	pull := func(when string) {
		for _, name := range names {
			i := multiArchOf(when + "/" + name)
			b.publish(i)
			if err := sessions[name].pull(i); err != nil {
				t.Errorf("%s: %s: %v", when, name, err)
			}
		}
		b.assertNoBypass(t)
	}
	pull("before")
	entry.kill()
	killed := time.Now()
	waitUntil(t, "a box answers at the address", func() bool { return b.answers(t, address) })
	t.Logf("a box answers after %s", time.Since(killed).Round(10*time.Millisecond))
	pull("after")
}

// TestBoxesBalancer puts HAProxy in front of two boxes, as the documentation has it.
func TestBoxesBalancer(t *testing.T) {
	need(t, "haproxy")
	b := newBoxes(t, 2, fakehub.Options{})
	c := newTool(t, b.site, "")
	config := c.write(t, "haproxy.cfg", documented(t, "backend boxes", "hubcap-0.site", "box1.site", "hubcap-1.site", "box2.site"))
	startDaemon(t, b.ns, "haproxy", c.command("haproxy", "-db", "-f", config)).waitReady(t, func() bool { return b.answers(t, mirror) })
	b.pullsGoOn(t, mirror, b.all[0])
}

// answers reports whether a box answers at an address.
func (b *boxes) answers(t *testing.T, address string) bool {
	t.Helper()
	resp, err := b.ns.httpClient(t).Get("http://" + address + "/readyz")
	if err == nil {
		_ = resp.Body.Close()
	}
	return err == nil && resp.StatusCode == http.StatusOK
}

// TestBoxesVirtualAddress has keepalived move an address to the other box, as the documentation has it.
func TestBoxesVirtualAddress(t *testing.T) {
	need(t, "keepalived", "curl")
	b := newBoxes(t, 2, fakehub.Options{})
	for n, box := range b.all {
		c := newTool(t, b.site, "")
		config := c.write(t, "keepalived.conf", documented(t, "vrrp_instance", "192.0.2.10", "10.73.0.100", "priority 100", "priority "+strconv.Itoa(101-n)))
		startDaemon(t, b.ns, "keepalived", exec.Command("ip", "netns", "exec", "box"+strconv.Itoa(box.number), "keepalived", "--dont-fork", "--log-console",
			"--use-file", config, "--pid", c.path("pid"), "--vrrp_pid", c.path("vrrp.pid"), "--checkers_pid", c.path("checkers.pid")))
	}
	const address = "10.73.0.100:5000"
	waitUntil(t, "the address is there", func() bool { return b.answers(t, address) })
	b.pullsGoOn(t, address, b.all[0])
}
