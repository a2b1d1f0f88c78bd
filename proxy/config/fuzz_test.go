package config

import (
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hubcap/metrics"
	"hubcap/proxy/upstream"
)

// The names of registries and the addresses to listen at, each as one
// expression.
var (
	specHost    = regexp.MustCompile(`^(?:\*\.)?[A-Za-z0-9.-]+(?::0*([1-9][0-9]{0,4}))?$`)
	specAddress = regexp.MustCompile(`^(?:localhost|[0-9.]+|\[[0-9A-Fa-f:.]+(?:%[^\]\[]+)?\]|):([0-9]+)$`)
)

// FuzzNames: names of registries, addresses and ranges are taken exactly as
// they are documented, and what is taken is spelled in one way.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{
		"docker.io", "Registry-1.Docker.IO", "registry.example.com:8443", "*.pkg.dev", "*.", "a:0", "a:00443", "ghcr.io.:443", "..", "*.:443",
		":5000", "127.0.0.1:5001", "[::1]:5000", "localhost:1", ":", ":65536", "[fe80::1%eth0]:1", "10.0.0.0/8,192.168.1.7", "::ffff:10.0.0.0/104", "0/0", "1.2.3.4/33",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, err := checkHost(text)
		m := specHost.FindStringSubmatch(text)
		if want := m != nil && (m[1] == "" || len(m[1]) < 5 || m[1] <= "65535"); (err == nil) != want {
			t.Errorf("host %q: %q, %v", text, host, err)
		}
		if err == nil {
			if again, err := checkHost(host); host != "" && (err != nil || again != upstream.Canonical(host)) {
				t.Errorf("host %q is %q, and that is %q, %v", text, host, again, err)
			}
		}
		if at, err := parsed[Address](text); err == nil {
			if _, _, err := net.SplitHostPort(string(at)); err != nil || string(at) != text || !specAddress.MatchString(text) {
				t.Errorf("address %q", text)
			}
		}
		if ranges, err := parsed[Prefixes](text); err == nil {
			again, err := parsed[Prefixes](ranges.String())
			if err != nil || !slices.Equal(again, ranges) || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return !p.IsValid() || p != p.Masked() }) {
				t.Errorf("ranges %q are %v, and those are %v, %v", text, ranges, again, err)
			}
		}
	})
}

// FuzzLoad: whatever the variables hold, the start goes on with registries that
// can be found, or stops with one line.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		"LISTEN_0_ADDRESS=:5002\nLISTEN_0_UPSTREAM=ghcr.io", "LISTEN_1_ADDRESS=:5002", "LISTEN=:1\nADMIN_LISTEN=:1",
		"UPSTREAM_0_HOST=a\nUPSTREAM_0_URL=http://a:1/x\nUPSTREAM_0_USERNAME=" + canary + "\nUPSTREAM_0_PASSWORD=" + canary,
		"UPSTREAM_0_HOST=*.a\nUPSTREAM_0_VISIBILITY=shared\nUPSTREAM_0_SHARED_REPOSITORIES=**,{a", "CACHE_SIZE=1%\nTAG_TTL=1d\nMIN_FREE=max(0)",
		"UPSTREAM_0_HOST=" + canary + "@a\nDEFAULT_UPSTREAM=x", "UPSTREAM_0_TOKEN_HOSTS=a,b:1\nUPSTREAM_0_HOST=docker.io\nUPSTREAM_0_TOKEN=" + canary,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var environ []string
		for line := range strings.SplitSeq(text, "\n") {
			name, _, _ := strings.Cut(line, "=")
			if strings.Contains(name, "_FILE") || strings.ContainsRune(line, 0) {
				continue // no file of the machine is read
			}
			environ = append(environ, Prefix+line)
		}
		if err := Print(io.Discard, environ); err != nil {
			t.Errorf("it cannot be shown: %v", err)
		}
		c, err := Load(environ)
		if err != nil {
			if message := err.Error(); message == "" || strings.ContainsAny(message, "\n\r") || strings.Contains(message, "%!") {
				t.Errorf("%q is not one clean line", message)
			}
			return
		}
		for i := range c.Upstreams {
			c.Upstreams[i].Metrics, c.Upstreams[i].Log = metrics.New().Upstreams, slog.New(slog.DiscardHandler)
		}
		set, err := upstream.NewSet(c.Upstreams, c.DefaultUpstream)
		if err != nil {
			t.Fatalf("%q: %v", environ, err)
		}
		for _, m := range c.Mirrors {
			if _, ok := set.Find(m.Upstream); !ok || m.Address == "" {
				t.Errorf("%q: no registry for %+v", environ, m)
			}
		}
		for _, e := range c.Upstreams {
			host := strings.Replace(e.Host, "*", "a", 1)
			if _, ok := set.Find(host); !ok {
				t.Errorf("%q: %q is not to be found", environ, host)
			}
		}
	})
}

// FuzzNumbers: no text makes the parsers of durations, sizes, shares and
// floors panic, and what they accept is finite and not negative.
func FuzzNumbers(f *testing.F) {
	for _, seed := range []string{
		"", "30s", "7d", "1d12h", "1.5d", "NaNd-5m", "36500d2562047h", "0d", "2d-12h",
		"50GiB", "50 Gi", "500GB", "1e18", "NaN", "+InfTB", "-1", "0x1p62", "9223372036854775807",
		"60%", "100%", "0%", "-0%", "5e-324%", "NaN%", "max(5%,2GiB)", "max(", "max()", "max(0)", "0", "5%,2GiB",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := parsed[Duration](text); err == nil && d <= 0 {
			t.Errorf("duration %q = %v", text, d)
		}
		if n, err := parseSize(text); err == nil && (n < 0 || n > math.MaxInt64/2) {
			t.Errorf("size %q = %d", text, n)
		}
		if s, err := parsed[Share](text); err == nil {
			sound := s.bytes > 0 && !s.isShare || s.bytes == 0 && s.isShare && s.share >= 0 && s.share <= 1
			if !sound || !s.set() || s.of(1<<60) < 0 {
				t.Errorf("share %q = %+v", text, s)
			}
		}
		if floor, err := parsed[Floor](text); err == nil {
			for _, whole := range []int64{0, 1, 1 << 40, 1 << 60} {
				if n := floor.of(whole); n < 0 || n > math.MaxInt64/2 {
					t.Errorf("floor %q of %d = %d", text, whole, n)
				}
			}
		}
	})
}
