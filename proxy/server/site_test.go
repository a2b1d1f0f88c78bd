package server

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/admin/api"
	"hubcap/proxy/problems"
)

// TestListsThatAreWrong has a box start with a list of boxes in which one does not
// answer, one's name does not exist, one is no hubcap, one is another box under two
// names, and one is this box: each is a problem of one line, the status says the same,
// and pulls go on.
func TestListsThatAreWrong(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.NotFound(w, r)
		}
	}))
	defer foreign.Close()
	ports := []string{testkit.FreePort(t), testkit.FreePort(t)}
	entry := func(host, port string) string { return "http://" + host + ":" + port }
	dead, unknown := entry("127.0.0.1", testkit.FreePort(t)), entry("hubcap-9.invalid", "5000")
	self, alias := entry("127.0.0.1", ports[0]), entry("localhost", ports[0])
	other, otherToo := entry("127.0.0.1", ports[1]), entry("localhost", ports[1])
	list := strings.Join([]string{self, alias, other, otherToo, dead, unknown, foreign.URL}, ",")
	upstream := []string{
		"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_URL=" + hub.RegistryURL(), "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8,::1/128",
		"HUBCAP_UPSTREAM_0_TOKEN_HOSTS=" + strings.TrimPrefix(strings.TrimSuffix(hub.TokenURL(), "/token"), "http://"),
	}
	start(t, append(upstream, "HUBCAP_LISTEN=127.0.0.1:"+ports[1], "HUBCAP_SITE="+list, "HUBCAP_SITE_SELF="+other)...)
	dir := t.TempDir()
	b := start(t, append(upstream, "HUBCAP_LISTEN=127.0.0.1:"+ports[0], "HUBCAP_SITE="+list, "HUBCAP_SITE_SELF="+self, "HUBCAP_DATA_DIR="+dir)...)
	b.server.Site.Look(t.Context())
	b.clock.Store(int64(3 * time.Minute))
	wanted := []string{
		"box-list-wrong/" + alias + ": " + alias + " is this box under another name",
		"box-list-wrong/" + otherToo + ": " + otherToo + " is " + other + " under another name",
		"box-list-wrong/" + foreign.URL + ": " + foreign.URL + " is no hubcap of this site: it does not say which boxes it knows",
		"box-fails/" + dead + ": " + dead + " gives no answer: ", "box-fails/" + unknown + ": " + unknown + " gives no answer: ",
	}
	for _, want := range wanted {
		b.within(want, func() bool {
			return slices.ContainsFunc(b.problemsOf(dir), func(p problems.Problem) bool {
				return strings.HasPrefix(p.ID+": "+p.What, want) && !strings.Contains(p.What, "\n")
			})
		})
	}
	var status api.Status
	if code := b.askAdmin(dir, "/api/v1/status", &status); code != http.StatusOK || len(status.Site) != 7 || status.Site[0].Kind != "self" {
		t.Errorf("%d, %+v", code, status.Site)
	}
	for seed := range uint64(8) { // whoever owns it
		d := hub.AddBlob("library/app", fakehub.RandomBlob(seed, 1<<20))
		if code, _, body := b.get(b.mirror, "/v2/library/app/blobs/"+d.String()); code != http.StatusOK || len(body) != 1<<20 {
			t.Errorf("blob %d: status %d, %d bytes", seed, code, len(body))
		}
	}
}

// within waits until something holds.
func (b *box) within(what string, ok func() bool) {
	b.t.Helper()
	testkit.Eventually(b.t, what, ok)
}

// TestStartsWithoutItself: a list in which this box is not found, or twice, stops the
// start with one line.
func TestStartsWithoutItself(t *testing.T) {
	for list, part := range map[string]string{
		"http://hubcap-9.invalid:5000": "no entry is this machine's name or address", "http://127.0.0.1:5000,http://127.0.0.1:5001": "are both this machine",
	} {
		oneLine(t, launch(t, "HUBCAP_SITE="+list).wait(), "HUBCAP_SITE=", part, "HUBCAP_SITE_SELF")
	}
}

// TestBoxesAreManyClients: proxies and other boxes are exempt from the limit of one
// client, others not.
func TestBoxesAreManyClients(t *testing.T) {
	self := "http://127.0.0.1:" + testkit.FreePort(t)
	b := start(t, "HUBCAP_SITE="+self+",http://192.0.2.7:5000", "HUBCAP_SITE_SELF="+self, "HUBCAP_TRUSTED_PROXIES=198.51.100.0/24")
	b.within("the address of the other box is known", func() bool { return b.server.manyClients(netip.MustParseAddr("192.0.2.7")) })
	for address, want := range map[string]bool{"198.51.100.9": true, "192.0.2.8": false, "127.0.0.1": false} {
		if got := b.server.manyClients(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
