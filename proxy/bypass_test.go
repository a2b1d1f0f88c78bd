package proxy_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/upstream"
)

// suspected returns how often clients of a family are suspected to have left, for any reason.
func (r *rig) suspected(family string) map[string]string {
	r.t.Helper()
	all := map[string]string{}
	for _, why := range []string{"limited", "failed", "incomplete", "refused", "unknown_registry", "not_allowed", "cut", "not_found"} {
		if n := r.metric(fmt.Sprintf(`hubcap_bypass_suspected_total{family="%s",why="%s"}`, family, why)); n != "" {
			all[why] = n
		}
	}
	return all
}

// TestWhyClientsLeave causes each answer that makes containerd leave, and looks
// at what is counted and at the family in the log.
func TestWhyClientsLeave(t *testing.T) {
	t.Parallel()
	const path = "/v2/library/demo/manifests/latest?ns=docker.io"
	script := func(f fakehub.Fault) func(*rig, fakehub.Image) string {
		return func(r *rig, _ fakehub.Image) string { r.hub.Script(fakehub.Always(&f)); return path }
	}
	for name, tt := range map[string]struct {
		o     rigOptions
		begin func(r *rig, img fakehub.Image) (path string)
		why   string // empty for an answer that makes nobody leave
	}{
		"served":        {begin: script(fakehub.Fault{})},
		"5xx":           {begin: script(fakehub.Fault{Status: 503}), why: "failed"},
		"no answer":     {begin: script(fakehub.Fault{CloseBeforeHeaders: true}), why: "failed"},
		"wrong content": {begin: script(fakehub.Fault{HTML: true}), why: "failed"},
		"429":           {begin: script(fakehub.Fault{Status: 429, Header: http.Header{"Retry-After": {"600"}}}), why: "limited"},
		"too much that is not there": {o: rigOptions{notFoundLimit: 1}, why: "limited", begin: func(r *rig, _ fakehub.Image) string {
			for i := range 3 {
				r.get(fmt.Sprintf("/v2/none/manifests/%d", i))
			}
			return path
		}},
		"404":            {begin: func(*rig, fakehub.Image) string { return "/v2/library/none/manifests/latest?ns=docker.io" }, why: "not_found"},
		"blob 404":       {begin: func(*rig, fakehub.Image) string { return blobPath("library/demo", fakeDigest) + "?ns=docker.io" }, why: "not_found"},
		"not served":     {begin: func(*rig, fakehub.Image) string { return "/v2/a/b/manifests/c?ns=other.example.com" }, why: "unknown_registry"},
		"two registries": {begin: func(*rig, fakehub.Image) string { return "/ghcr.io/v2/a/b/manifests/c?ns=docker.io" }, why: "unknown_registry"},
		"denied":         {o: rigOptions{rules: upstream.Rules{Deny: []string{"library/*"}}}, begin: script(fakehub.Fault{}), why: "refused"},
		"address":        {o: rigOptions{clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, begin: script(fakehub.Fault{}), why: "not_allowed"},
		"malformed":      {begin: func(*rig, fakehub.Image) string { return "/v2/library/demo/blobs/sha256:12?ns=docker.io" }, why: "refused"},
		"range": {begin: func(_ *rig, img fakehub.Image) string {
			return blobPath("library/demo", img.Layers[0].Digest) + "?ns=docker.io#range"
		}},
		"list":            {begin: func(*rig, fakehub.Image) string { return "/v2/library/none/tags/list?ns=docker.io" }},
		"no such path":    {begin: func(*rig, fakehub.Image) string { return "/v1/_ping" }},
		"by its own name": {begin: func(*rig, fakehub.Image) string { return "/v2/ghcr.io/owner/none/manifests/latest" }},
		"incomplete": {why: "incomplete", begin: func(r *rig, _ fakehub.Image) string {
			r.get("/v2/demo/manifests/latest")
			r.hub.Down()
			r.clock.Advance(time.Minute)
			return path
		}},
		"cut": {why: "cut", begin: func(r *rig, _ fakehub.Image) string {
			body := fakehub.RandomBlob(9, 4*mib)
			d := r.hub.AddBlob("library/demo", body)
			r.hub.Script(fakehub.Always(&fakehub.Fault{CorruptAt: fakehub.At(3 * mib), Rate: 8 * mib}, fakehub.OfKind(fakehub.KindCDN)))
			return blobPath("library/demo", d) + "?ns=docker.io"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.o)
			img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
			path, ranged := strings.CutSuffix(tt.begin(r, img), "#range")
			header := []string{"User-Agent", "containerd/2.4.2"}
			if ranged {
				header = append(header, "Range", "bytes=5000-")
			}
			r.get(path, header...)
			want := map[string]string{}
			if tt.why != "" {
				want[tt.why] = "1"
			}
			r.stop() // waits until the answers are counted
			if got := r.suspected("containerd"); !maps.Equal(got, want) {
				t.Errorf("suspected %v, want %v", got, want)
			}
			if n := len(r.suspected("other")); n != 0 {
				t.Errorf("what no mirror's client asked for is counted: %v", r.suspected("other"))
			}
			if !strings.Contains(r.log.String(), " family=containerd client=127.0.0.1:") {
				t.Error("the log does not name the family")
			}
		})
	}
}

// fakeDigest is of no content.
const fakeDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// TestClientsThatStay has a registry fail for a moment: the client pulls here
// after all, while another one is gone.
func TestClientsThatStay(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 503}, fakehub.OfKind(fakehub.KindManifest)))
	docker, containers := []string{"User-Agent", "docker/28.5.2 go/go1.24"}, []string{"User-Agent", "containers/5.24.1"}
	r.get("/v2/library/demo/manifests/latest", docker...).want(t, 502, nil, "")
	r.get("/v2/library/demo/manifests/latest", containers...).want(t, 502, nil, "")
	r.hub.Script(nil)
	r.clock.Advance(30 * time.Second)
	r.get(blobPath("library/demo", img.Layers[0].Digest), docker...).want(t, 200, nil, "")
	outcome := func(family, outcome string) string {
		return r.metric(fmt.Sprintf(`hubcap_bypass_outcomes_total{family="%s",outcome="%s"}`, family, outcome))
	}
	eventually(t, "one has stayed", func() bool { return outcome("docker", "stayed") == "1" })
	r.clock.Advance(30 * time.Second)
	all := r.handler.Bypass.Clients()
	if len(all) != 2 || all[0].Left != 0 || all[1].Left != 1 || all[0].Bytes < 1000 {
		t.Errorf("%+v", all)
	}
	if outcome("docker", "left") != "0" || outcome("containers", "left") != "1" || outcome("containers", "stayed") != "0" {
		t.Error("the wrong one has left")
	}
	if want := `family=containers client=127.0.0.1 image=docker.io/library/demo:latest answer="502 failed"`; !strings.Contains(r.log.String(), want) {
		t.Errorf("the log does not warn: %s", r.log)
	}
	if n := r.metric(`hubcap_clients{window="1h"}`); n != "1" {
		t.Errorf("%s clients, want 1", n)
	}
}

// TestLoginPort: to be asked for a login makes no client leave.
func TestLoginPort(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{other: fakehub.Start(t, fakehub.Options{}), rules: upstream.Rules{Visibility: upstream.Passthrough}})
	r.get(r.login+"/v2/library/demo/manifests/latest?ns=docker.io", "User-Agent", "containerd/2.4.2").want(t, 401, nil, "")
	r.stop() // waits until the answer is counted
	if n := r.metric(`hubcap_clients{window="1h"}`); n != "1" {
		t.Errorf("%s clients, want 1", n)
	}
	if got := r.suspected("containerd"); len(got) != 0 {
		t.Errorf("suspected: %v", got)
	}
}

// TestClientsThatHangUp reset their connections in the middle of an answer: they
// were not cut, and are not suspected.
func TestClientsThatHangUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	layer := fakehub.RandomBlob(1, 32*mib)
	d := r.hub.AddBlob("library/demo", layer)
	r.get(blobPath("library/demo", d)).want(t, 200, layer, "")
	r.settle()
	const n = 50
	for range n {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		must(t, err)
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: hubcap\r\nUser-Agent: docker/28.5.2\r\n\r\n", blobPath("library/demo", d))
		must(t, err)
		_, err = io.ReadFull(conn, make([]byte, mib))
		must(t, err)
		must(t, conn.(*net.TCPConn).SetLinger(0))
		must(t, conn.Close())
	}
	r.stop()
	if aborts, cuts := r.metric("hubcap_client_aborts_total"), r.metric("hubcap_cut_answers_total"); aborts != fmt.Sprint(n) || cuts != "0" {
		t.Errorf("%s aborts and %s cuts, want %d and none", aborts, cuts, n)
	}
	if got := r.suspected("docker"); len(got) != 0 {
		t.Errorf("suspected: %v", got)
	}
}
