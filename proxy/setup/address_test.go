package setup

import (
	"strings"
	"testing"
)

func TestAddressOfHost(t *testing.T) {
	for host, want := range map[string]string{
		"berlin.lan:5000":      "berlin.lan:5000",
		"Berlin.LAN:5000":      "berlin.lan:5000",
		"berlin.lan":           "berlin.lan:80",
		"hubcap:5000":          "hubcap:5000",
		"10.1.2.3:5000":        "10.1.2.3:5000",
		"[fd00::1]:5000":       "[fd00::1]:5000",
		"[FD00:0::1]":          "[fd00::1]:80",
		"xn--bcher-kva.lan:81": "xn--bcher-kva.lan:81",
		"1and1.example.com:80": "1and1.example.com:80",
	} {
		if got, ok := parseAddress(host, "80"); !ok || got != want {
			t.Errorf("%q: %q, %v; want %q", host, got, ok, want)
		}
	}
}

// hostileHosts are Host headers that would make a text mean something else, or
// nothing. net/http lets some of them pass.
var hostileHosts = []string{
	"", ":5000", "berlin.lan:", "berlin.lan:0", "berlin.lan:65536", "berlin.lan:05000", "berlin.lan:+80", "berlin.lan:http",
	"a b", "a\tb", "a\nb", `a"b`, "a'b", "a`b", "a$b", "$(id)", "a;b", "a|b", "a&b", "a/b", `a\b`, "a#b", "a?b", "a@b", "user:pass@a", "a%41", "a,b", "a=b",
	"<script>", "a{b", "{{.}}", "a_b", "ä.lan", "-a.lan", "a-.lan", "a..lan", ".lan", "lan.", "*.lan",
	"10.1.2", "10.1.2.300", "1", "0x7f.1", "::1", "[::1", "::1]", "[::1]x:5000", "[fe80::1%eth0]:5000", "[10.1.2.3]:5000", "[]:5000",
	strings.Repeat("a", 64) + ".lan", strings.Repeat("a.", 127) + "lan",
}

func TestHostileHostsAreNoAddress(t *testing.T) {
	for _, host := range hostileHosts {
		if got, ok := parseAddress(host, "80"); ok {
			t.Errorf("%q is taken for %q", host, got)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, host := range append(hostileHosts, "berlin.lan:5000", "[fd00::1]:5000", "10.1.2.3") {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		got, ok := parseAddress(host, "80")
		if !ok {
			return
		}
		if strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789.-:[]") != "" {
			t.Errorf("%q becomes %q", host, got)
		}
		if again, ok := parseAddress(got, "1"); !ok || again != got {
			t.Errorf("%q becomes %q, and that %q", host, got, again)
		}
	})
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"localhost:5000": true, "a.localhost:5000": true, "127.0.0.1:5000": true, "[::1]:5000": true, "[::ffff:127.0.0.1]:5000": true,
		"berlin.lan:5000": false, "10.1.2.3:5000": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
