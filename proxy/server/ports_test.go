package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

func TestPorts(t *testing.T) {
	b := start(t)
	for _, tc := range []struct {
		name, address, path string
		status              int
		contentType, body   string // what the body must hold
	}{
		{"alive", b.mirror, "/livez", 200, "text/plain; charset=utf-8", "ok\n"},
		{"ready", b.mirror, "/readyz", 200, "text/plain; charset=utf-8", "ok\n"},
		{"ping", b.mirror, "/v2/", 200, "application/json", "{}\n"},
		{"no metrics for clients", b.mirror, "/metrics", 404, "application/json", `{"errors":[{"code":"`},
		{"alive, for the operator", b.admin, "/livez", 200, "text/plain; charset=utf-8", "ok\n"},
		{"ready, for the operator", b.admin, "/readyz", 200, "text/plain; charset=utf-8", "ok\n"},
		{"metrics, for the operator", b.admin, "/metrics", 200, "text/plain", "hubcap_"},
		{"no registry for the operator", b.admin, "/v2/", 404, "text/plain", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, contentType, body := b.get(tc.address, tc.path)
			if status != tc.status || !strings.HasPrefix(contentType, tc.contentType) || !strings.Contains(body, tc.body) {
				t.Errorf("%s: %d %s\n%.300s\nwant %d %s …%s…", tc.path, status, contentType, body, tc.status, tc.contentType, tc.body)
			}
			if tc.contentType == "application/json" && !json.Valid([]byte(body)) {
				t.Errorf("no JSON: %s", body)
			}
		})
	}
}

func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, name := range []string{"HUBCAP_LISTEN", "HUBCAP_ADMIN_LISTEN"} {
		t.Run(name, func(t *testing.T) {
			setting := name + "=" + taken.Addr().String()
			oneLine(t, launch(t, setting).wait(), setting, "in use by another program (ss -ltnp")
		})
	}
}

// TestAddressThatComesLate listens on an address that an interface gets after
// the start. Loopback has all of 127.0.0.0/8 and one address of IPv6, so that
// another one is missing until it is added.
func TestAddressThatComesLate(t *testing.T) {
	const late = "fd00:4875:6263::1" // no interface has it
	ip := func(args ...string) error {
		return exec.Command("ip", append([]string{"-6", "address"}, args...)...).Run()
	}
	if os.Getuid() != 0 || ip("add", late+"/128", "dev", "lo") != nil || ip("del", late+"/128", "dev", "lo") != nil {
		t.Skip("addresses cannot be added to the loopback interface")
	}
	for _, name := range []string{"HUBCAP_LISTEN", "HUBCAP_ADMIN_LISTEN"} {
		t.Run(name, func(t *testing.T) {
			b := launch(t, name+"=["+late+"]:0")
			for deadline := time.Now().Add(soon); b.line("no interface has the address to listen on; hubcap waits until one has it") == nil; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the wait is not logged")
				}
			}
			if err := ip("add", late+"/128", "dev", "lo"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ip("del", late+"/128", "dev", "lo") }()
			b.waitReady()
			if status, _, _ := b.get(b.admin, "/readyz"); status != http.StatusOK {
				t.Errorf("status %d", status)
			}
		})
	}
	t.Run("it may be stopped", func(t *testing.T) {
		b := launch(t, "HUBCAP_LISTEN=["+late+"]:0")
		b.cancel()
		if err := b.wait(); err != nil {
			t.Error(err)
		}
	})
}

// Further mirror ports differ in the registry that they ask, and in nothing
// else.
func TestFurtherMirrorPorts(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	img := hub.Image("team/app", "v1", fakehub.RandomBlob(1, 100_000))
	token, err := url.Parse(hub.TokenURL())
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, "HUBCAP_UPSTREAM_0_HOST=registry.example.com:8443", "HUBCAP_UPSTREAM_0_URL="+hub.RegistryURL(),
		"HUBCAP_UPSTREAM_0_TOKEN_HOSTS="+token.Host, "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8",
		"HUBCAP_UPSTREAM_1_HOST=docker.io", "HUBCAP_UPSTREAM_1_ALLOW=nothing", // so that Docker Hub is not asked
		"HUBCAP_LISTEN_0_ADDRESS=127.0.0.1:0", "HUBCAP_LISTEN_0_UPSTREAM=registry.example.com:8443",
		"HUBCAP_LISTEN_1_ADDRESS=127.0.0.1:0", "HUBCAP_LISTEN_1_UPSTREAM=docker.io", "HUBCAP_DRAIN_TIMEOUT=30s")
	further := make(map[string]string)
	for text := range strings.Lines(b.log.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == "further mirror port" {
			further[fmt.Sprint(line["default"])] = fmt.Sprint(line["address"])
		}
	}
	blob := "/v2/team/app/blobs/" + img.Layers[0].Digest.String()
	for _, tc := range []struct {
		address, path string
		status        int
	}{
		{further["registry.example.com:8443"], "/v2/", 200},
		{further["registry.example.com:8443"], "/readyz", 200},
		{further["registry.example.com:8443"], "/metrics", 404},
		{further["registry.example.com:8443"], "/v2/team/app/manifests/v1", 200},
		{further["registry.example.com:8443"], blob, 200},
		{further["docker.io"], "/v2/team/app/manifests/v1", 403},
		{further["docker.io"], blob + "?ns=registry.example.com:8443", 200},
		{b.mirror, "/v2/team/app/manifests/v1", 403},
		{b.mirror, "/v2/registry.example.com:8443/team/app/manifests/v1", 200},
	} {
		if status, _, body := b.get(tc.address, tc.path); status != tc.status {
			t.Errorf("%s%s: %d %.100q, want %d", tc.address, tc.path, status, body, tc.status)
		}
	}
	if n := hub.Count(fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(img.Layers[0].Digest)); n != 1 {
		t.Errorf("the layer crossed %d times", n)
	}
	b.cancel()
	if err := b.wait(); err != nil {
		t.Error(err)
	}
	for name, address := range further {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			t.Errorf("the port of %s is open", name)
		}
	}
}

func TestFurtherPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	setting := "HUBCAP_LISTEN_0_ADDRESS=" + taken.Addr().String()
	oneLine(t, launch(t, setting, "HUBCAP_LISTEN_0_UPSTREAM=ghcr.io").wait(), setting, "in use by another program (ss -ltnp")
}

// TestLimits opens as many connections as one client may have, and one more,
// which waits until another one is closed.
func TestLimits(t *testing.T) {
	for _, tc := range []struct {
		name, settings string
		ofOne          int
		waits          bool
	}{
		{"a client", "HUBCAP_MAX_CONNECTIONS_PER_CLIENT=40", 40, true},
		{"half of all", "HUBCAP_MAX_CONNECTIONS=80", 40, true},
		{"a proxy", "HUBCAP_TRUSTED_PROXIES=127.0.0.1\nHUBCAP_MAX_CONNECTIONS_PER_CLIENT=40", 40, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := start(t, strings.Split(tc.settings, "\n")...)
			if got := b.line("limits")["of_one_client"]; got != float64(tc.ofOne) {
				t.Errorf("of one client: %v, want %v", got, tc.ofOne)
			}
			var all []net.Conn
			for range tc.ofOne + 1 {
				conn, err := net.Dial("tcp", b.mirror)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				all = append(all, conn)
			}
			for deadline := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
				_, _, metrics := b.get(b.admin, "/metrics")
				served := tc.ofOne
				if !tc.waits {
					served++
				}
				if strings.Contains(metrics, fmt.Sprintf("hubcap_connections{port=\"mirror\"} %d\n", served)) &&
					strings.Contains(metrics, `hubcap_connections_waiting{port="mirror"} 1`+"\n") == tc.waits {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("want %d connections, and another one that waits: %t", tc.ofOne, tc.waits)
				}
			}
			if tc.waits {
				all[0].Close()
			}
			last := all[len(all)-1]
			if _, err := io.WriteString(last, "GET /v2/ HTTP/1.0\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if got, _ := io.ReadAll(last); len(got) == 0 {
				t.Error("the last connection is not answered")
			}
		})
	}
}

func TestReachable(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	for _, tc := range []struct{ name, address, want string }{
		{"every interface, no host", ":5000", net.JoinHostPort(host, "5000")},
		{"every interface", "0.0.0.0:5000", net.JoinHostPort(host, "5000")},
		{"every interface, IPv6", "[::]:5000", net.JoinHostPort(host, "5000")},
		{"one address", "192.0.2.7:5000", "192.0.2.7:5000"},
		{"one IPv6 address", "[2001:db8::7]:5000", "[2001:db8::7]:5000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := reachable(tc.address); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
