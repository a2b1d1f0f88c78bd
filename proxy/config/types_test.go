package config

import (
	"encoding"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// parsed is text read into a value of type T.
func parsed[T any, P interface {
	*T
	encoding.TextUnmarshaler
}](text string) (T, error) {
	var v T
	err := P(&v).UnmarshalText([]byte(text))
	return v, err
}

// wantHint checks that a refusal says what is allowed.
func wantHint(t *testing.T, err error, hint string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), hint) {
		t.Errorf("error %v, want one that says %q", err, hint)
	}
}

func TestDuration(t *testing.T) {
	const day = 24 * time.Hour
	for _, tc := range []struct {
		name, text string
		want       time.Duration
	}{
		{"seconds", "90s", 90 * time.Second},
		{"minutes", "5m", 5 * time.Minute},
		{"several units", "1h30m", 90 * time.Minute},
		{"fractions", "1.5s", 1500 * time.Millisecond},
		{"a nanosecond", "1ns", 1},
		{"days", "7d", 7 * day},
		{"half days", "1.5d", 36 * time.Hour},
		{"days and hours", "1d12h", 36 * time.Hour},
		{"no days and hours", "0d12h", 12 * time.Hour},
		{"a century", "36500d", 36_500 * day},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[Duration](tc.text)
			if err != nil || time.Duration(got) != tc.want {
				t.Errorf("%q = %v, %v; want %v", tc.text, got, err, tc.want)
			}
		})
	}
}

func TestDurationRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"nothing", ""},
		{"a number without a unit", "30"},
		{"zero", "0s"},
		{"zero days", "0d"},
		{"negative", "-5s"},
		{"negative days", "-1d"},
		{"negative hours after days", "2d-12h"},
		{"an unknown unit", "5w"},
		{"days behind hours", "12h1d"},
		{"days twice", "1d1d"},
		{"d alone", "d"},
		{"a space", "1 d"},
		{"no number of days", "NaNd"},
		{"no number of days, wrapped around", "NaNd-5m"},
		{"infinite days", "Infd"},
		{"more days than fit", "36501d"},
		{"a sum that does not fit", "36500d2562047h"},
		{"more hours than fit", "9999999h"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[Duration](tc.text)
			if err == nil {
				t.Fatalf("%q = %v, want an error", tc.text, got)
			}
			wantHint(t, err, "want a duration above zero, such as 30s, 5m, 12h or 7d")
		})
	}
}

func TestSize(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       int64
	}{
		{"a number of bytes", "1073741824", 1 << 30},
		{"bytes", "512B", 512},
		{"KiB", "4KiB", 4 << 10},
		{"MiB", "64MiB", 64 << 20},
		{"GiB", "50GiB", 50 << 30},
		{"TiB", "2TiB", 2 << 40},
		{"Ki", "4Ki", 4 << 10},
		{"Mi", "64Mi", 64 << 20},
		{"Gi", "50Gi", 50 << 30},
		{"Ti", "2Ti", 2 << 40},
		{"kB", "5kB", 5_000},
		{"KB", "5KB", 5_000},
		{"MB", "5MB", 5_000_000},
		{"GB", "500GB", 500_000_000_000},
		{"TB", "1TB", 1_000_000_000_000},
		{"a fraction", "1.5GiB", 3 << 29},
		{"a space before the unit", "50 GiB", 50 << 30},
		{"zero", "0", 0},
		{"a fraction of a byte is none", "0.5B", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseSize(tc.text)
			if err != nil || got != tc.want {
				t.Errorf("%q = %d, %v; want %d", tc.text, got, err, tc.want)
			}
		})
	}
}

func TestSizeRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"nothing", ""},
		{"a unit alone", "GiB"},
		{"a word", "lots"},
		{"another case", "50gib"},
		{"a single letter", "50G"},
		{"an unknown unit", "1PiB"},
		{"negative", "-1GiB"},
		{"two units", "1GiBMiB"},
		{"no number", "NaN"},
		{"no number of GiB", "NaNGiB"},
		{"infinite", "Inf"},
		{"infinite MiB", "+InfMiB"},
		{"more than fits", "8388608TiB"},
		{"a decimal comma", "1,5GiB"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseSize(tc.text)
			if err == nil {
				t.Fatalf("%q = %d, want an error", tc.text, got)
			}
			wantHint(t, err, "want a size such as 50GiB, 500GB or a number of bytes")
		})
	}
}

func TestShare(t *testing.T) {
	const whole = 1000 << 20
	for _, tc := range []struct {
		name, text string
		want       int64 // of whole
	}{
		{"a size", "64MiB", 64 << 20},
		{"a size above the whole", "2000MiB", 2000 << 20},
		{"a share", "60%", 600 << 20},
		{"a fraction of a per cent", "0.5%", 5 << 20},
		{"all of it", "100%", whole},
		{"nothing of it", "0%", 0},
		{"so little that it is nothing", "5e-324%", 0},
		{"spaces around", " 60 % ", 600 << 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := parsed[Share](tc.text)
			if err != nil || s.of(whole) != tc.want || !s.set() {
				t.Fatalf("%q = %d, set %t, %v; want %d", tc.text, s.of(whole), s.set(), err, tc.want)
			}
			if got, want := s.String(), strings.TrimSpace(tc.text); got != want {
				t.Errorf("shown as %q, want %q", got, want)
			}
		})
	}
	if (Share{}).set() {
		t.Error("the zero Share is set")
	}
}

func TestShareRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, hint string }{
		{"no size", "lots", "want a size such as 50GiB, 500GB or a number of bytes, or a share such as 60%"},
		{"a negative size", "-5GiB", "want a size such as 50GiB"},
		{"zero", "0", "want more than nothing"},
		{"zero bytes", "0B", "want more than nothing"},
		{"less than a byte", "0.1", "want more than nothing"},
		{"negative per cent", "-1%", "want a share from 0% to 100%"},
		{"above all of it", "101%", "want a share from 0% to 100%"},
		{"no number", "NaN%", "want a share from 0% to 100%"},
		{"infinite", "Inf%", "want a share from 0% to 100%"},
		{"per cent alone", "%", "want a share from 0% to 100%"},
		{"per cent twice", "5%%", "want a share from 0% to 100%"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[Share](tc.text)
			if err == nil {
				t.Fatalf("%q = %+v, want an error", tc.text, got)
			}
			wantHint(t, err, tc.hint)
		})
	}
}

func TestFloor(t *testing.T) {
	const whole = 100 << 30
	for _, tc := range []struct {
		name, text string
		want       int64 // of whole
	}{
		{"a size", "2GiB", 2 << 30},
		{"a share", "5%", 5 << 30},
		{"the share is larger", "max(5%,2GiB)", 5 << 30},
		{"the size is larger", "max(5%,20GiB)", 20 << 30},
		{"three terms", "max(1%, 3GiB ,2%)", 3 << 30},
		{"one term in max", "max(5%)", 5 << 30},
		{"none", "0", 0},
		{"none in max", "max(0,1GiB)", 1 << 30},
		{"spaces around", " 2GiB ", 2 << 30},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := parsed[Floor](tc.text)
			if err != nil || f.of(whole) != tc.want {
				t.Fatalf("%q = %d, %v; want %d", tc.text, f.of(whole), err, tc.want)
			}
			if got, want := f.String(), strings.TrimSpace(tc.text); got != want {
				t.Errorf("shown as %q, want %q", got, want)
			}
		})
	}
}

func TestFloorRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"nothing", ""},
		{"no size", "lots"},
		{"no end", "max(5%,2GiB"},
		{"no beginning", "5%,2GiB)"},
		{"a list without max", "5%,2GiB"},
		{"max of nothing", "max()"},
		{"an empty term", "max(5%,)"},
		{"max in max", "max(max(5%,1GiB),2GiB)"},
		{"min", "min(5%,2GiB)"},
		{"negative", "max(5%,-2GiB)"},
		{"no number", "max(5%,NaN)"},
		{"above all of it", "120%"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[Floor](tc.text)
			if err == nil {
				t.Fatalf("%q = %+v, want an error", tc.text, got)
			}
			wantHint(t, err, "want a size, a share, or max(a,b), such as max(5%,2GiB)")
		})
	}
}

func TestPrefixes(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"a range", "10.0.0.0/8", "10.0.0.0/8"},
		{"a range named by an address in it", "10.1.2.3/8", "10.0.0.0/8"},
		{"an address", "192.168.1.7", "192.168.1.7/32"},
		{"several with spaces", "10.0.0.0/8, 192.168.1.7 ,fd00::/8", "10.0.0.0/8,192.168.1.7/32,fd00::/8"},
		{"an IPv6 address", "2001:db8::1", "2001:db8::1/128"},
		{"everything", "0.0.0.0/0,::/0", "0.0.0.0/0,::/0"},
		{"an IPv4 address in IPv6", "::ffff:10.1.2.3", "10.1.2.3/32"},
		{"an IPv4 range in IPv6", "::ffff:10.0.0.0/104", "10.0.0.0/8"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[Prefixes](tc.text)
			if err != nil || got.String() != tc.want {
				t.Errorf("%q = %q, %v; want %q", tc.text, got, err, tc.want)
			}
		})
	}
}

// Clients appear as IPv4 addresses, in whatever spelling a range was written.
func TestPrefixOfMappedAddressMatches(t *testing.T) {
	got, err := parsed[Prefixes]("::ffff:10.0.0.0/104")
	if err != nil {
		t.Fatal(err)
	}
	if !got[0].Contains(netip.MustParseAddr("10.1.2.3")) {
		t.Errorf("%v does not hold 10.1.2.3", got)
	}
}

func TestPrefixesRefuse(t *testing.T) {
	for _, tc := range []struct{ name, text, hint string }{
		{"a name", "example.com", `"example.com" is no range of addresses`},
		{"nothing", "", `"" is no range of addresses`},
		{"an empty one among several", "10.0.0.0/8,,127.0.0.1", `"" is no range of addresses`},
		{"too many bits", "10.0.0.0/33", `"10.0.0.0/33" is no range of addresses`},
		{"an octet above 255", "10.0.0.256", `"10.0.0.256" is no range of addresses`},
		{"a range with a dash", "10.0.0.1-10.0.0.9", `is no range of addresses`},
		{"a port", "10.0.0.1:80", `is no range of addresses`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[Prefixes](tc.text)
			if err == nil {
				t.Fatalf("%q = %v, want an error", tc.text, got)
			}
			wantHint(t, err, tc.hint)
			wantHint(t, err, "want such as 10.0.0.0/8,192.168.1.7")
		})
	}
}

func TestAddress(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"a port on every interface", ":5000"},
		{"loopback", "127.0.0.1:5001"},
		{"localhost", "localhost:5001"},
		{"IPv6 loopback", "[::1]:5000"},
		{"every interface, spelt out", "0.0.0.0:5000"},
		{"a port of the system's choice", "127.0.0.1:0"},
		{"the last port", ":65535"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[Address](tc.text)
			if err != nil || string(got) != tc.text {
				t.Errorf("%q = %q, %v", tc.text, got, err)
			}
		})
	}
}

func TestAddressRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"a number", "5000"},
		{"no port", "127.0.0.1"},
		{"an empty port", ":"},
		{"a port above 65535", ":65536"},
		{"a negative port", ":-1"},
		{"a service name", ":http"},
		{"a host name", "hubcap.example.com:5000"},
		{"a URL", "http://127.0.0.1:5000"},
		{"IPv6 without brackets", "::1:5000"},
		{"a star", "*:5000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[Address](tc.text)
			if err == nil {
				t.Fatalf("%q = %q, want an error", tc.text, got)
			}
			wantHint(t, err, "want an address to listen on, such as :5000 or 127.0.0.1:5001")
		})
	}
}

func TestURL(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"https", "https://registry.example.com"},
		{"http", "http://10.0.0.5:5000"},
		{"a path", "https://artifacts.example.com/docker-remote"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[URL](tc.text)
			if err != nil || got.String() != tc.text {
				t.Errorf("%q = %q, %v", tc.text, got, err)
			}
		})
	}
}

func TestURLRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"a host", "registry.example.com"},
		{"a host and port", "registry.example.com:5000"},
		{"another scheme", "ftp://registry.example.com"},
		{"no host", "https://"},
		{"a user", "https://alice@registry.example.com"},
		{"a user with a password", "https://alice:secret@registry.example.com"},
		{"a query", "https://registry.example.com?ns=docker.io"},
		{"a fragment", "https://registry.example.com#top"},
		{"a port that is none", "https://registry.example.com:port"},
		{"a path alone", "/v2/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parsed[URL](tc.text)
			if err == nil {
				t.Fatalf("%q = %q, want an error", tc.text, got)
			}
			wantHint(t, err, "want an address such as https://registry.example.com, without user, query or fragment")
		})
	}
}

func TestCAFile(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, dir, "ca.pem", certificate(t))
	got, err := parsed[CAFile](good)
	if err != nil || got.Path() != good {
		t.Fatalf("%q = %v, %v", good, got, err)
	}
	for _, tc := range []struct{ name, path, hint string }{
		{"missing", filepath.Join(dir, "none.pem"), "it cannot be read: no such file or directory"},
		{"a directory", dir, "it cannot be read: is a directory"},
		{"no PEM", writeFile(t, dir, "text", "hello\n"), "it holds no certificate"},
		{"empty", writeFile(t, dir, "empty", ""), "it holds no certificate"},
		{"another kind of PEM", writeFile(t, dir, "key.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), "it holds no certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parsed[CAFile](tc.path)
			wantHint(t, err, "want a file of PEM certificates; "+tc.hint)
		})
	}
}

func TestLogLevel(t *testing.T) {
	for text, want := range map[string]int{"debug": -4, "info": 0, "warn": 4, "error": 8, "WARN": 4, "Info": 0} {
		if got, err := parsed[LogLevel](text); err != nil || int(got) != want {
			t.Errorf("%q = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "trace", "warning", "info+2", "3"} {
		_, err := parsed[LogLevel](text)
		wantHint(t, err, "want debug, info, warn or error")
	}
}

func TestLogFormat(t *testing.T) {
	for _, text := range []string{"text", "json"} {
		if got, err := parsed[LogFormat](text); err != nil || string(got) != text {
			t.Errorf("%q = %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "logfmt", "JSON"} {
		_, err := parsed[LogFormat](text)
		wantHint(t, err, "want text or json")
	}
}

func TestPrefetch(t *testing.T) {
	for _, text := range []string{"off", "on-pull"} {
		if got, err := parsed[Prefetch](text); err != nil || string(got) != text {
			t.Errorf("%q = %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "on", "true", "On-Pull"} {
		_, err := parsed[Prefetch](text)
		wantHint(t, err, "want off or on-pull")
	}
}

func TestBudgets(t *testing.T) {
	const tib = 1 << 40
	for _, tc := range []struct {
		name                    string
		environ                 []string
		total, free             int64
		cache, maxBlob, minFree int64
	}{
		{"empty disk", nil, tib, tib, tib / 2, tib / 8, tib / 20},
		{"80% of a disk with room for more", nil, tib, 2 * tib, tib / 5 * 4, tib / 5, tib / 20},
		{"half of what is free", nil, tib, tib / 4, tib / 8, tib / 32, tib / 20},
		{"small disk", nil, 10 << 30, 10 << 30, 5 << 30, 5 << 28, 2 << 30},
		{"tiny disk", nil, 1 << 30, 1 << 30, 1 << 29, 1 << 27, 1 << 28},
		{"disk of the floor's size with a floor that was set", []string{"HUBCAP_CACHE_SIZE=", "HUBCAP_MIN_FREE=max(5%,2GiB)"}, 2 << 30, 2 << 30, 1 << 30, 1 << 28, 2 << 30},
		{"a size", []string{"HUBCAP_CACHE_SIZE=64GiB"}, tib, 0, 64 << 30, 16 << 30, tib / 20},
		{"a share", []string{"HUBCAP_CACHE_SIZE=25%"}, tib, 0, tib / 4, tib / 16, tib / 20},
		{"a largest blob above the cache", []string{"HUBCAP_CACHE_SIZE=1GiB", "HUBCAP_MAX_BLOB=5GiB"}, tib, 0, 1 << 30, 1 << 30, tib / 20},
		{"no floor", []string{"HUBCAP_CACHE_SIZE=1GiB", "HUBCAP_MIN_FREE=0"}, tib, 0, 1 << 30, 1 << 28, 0},
		{"a share of nothing as the floor", []string{"HUBCAP_CACHE_SIZE=1GiB", "HUBCAP_MIN_FREE=0%"}, tib, 0, 1 << 30, 1 << 28, 0},
		{"the larger of a share of nothing and a size", []string{"HUBCAP_CACHE_SIZE=1GiB", "HUBCAP_MIN_FREE=max(0%,1GiB)"}, tib, 0, 1 << 30, 1 << 28, 1 << 30},
		{"no blob at all", []string{"HUBCAP_CACHE_SIZE=1GiB", "HUBCAP_MAX_BLOB=0%"}, tib, 0, 1 << 30, 0, tib / 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustLoad(t, tc.environ...)
			cache := c.CacheBytes(tc.total, tc.free)
			minFree, small := c.MinFreeBytes(tc.total)
			if want := strings.HasPrefix(tc.name, "tiny"); small != want {
				t.Errorf("small: %t, want %t", small, want)
			}
			got := []int64{cache, c.MaxBlobBytes(cache), minFree}
			if want := []int64{tc.cache, tc.maxBlob, tc.minFree}; !near(got, want) {
				t.Errorf("cache, largest blob, floor = %d, want %d", got, want)
			}
			if c.CacheSizeSet() != (len(tc.environ) > 0 && tc.environ[0] != "HUBCAP_CACHE_SIZE=") {
				t.Errorf("CacheSizeSet() = %t", c.CacheSizeSet())
			}
		})
	}
}

func TestGrownCache(t *testing.T) {
	for _, tc := range []struct{ size, before, total, want int64 }{
		{50, 100, 200, 100},
		{80, 100, 200, 130},
		{80, 100, 110, 85},
		{10, 100, 100, 10},
		{90, 100, 101, 90}, // more than the share, which others' files had left
	} {
		const gib = 1 << 30
		if got := GrownCacheBytes(tc.size*gib, tc.before*gib, tc.total*gib); got != tc.want*gib {
			t.Errorf("%d GiB on %d that are %d now: %.1f, want %d", tc.size, tc.before, tc.total, float64(got)/gib, tc.want)
		}
	}
}

// near allows for the rounding of shares.
func near(a, b []int64) bool {
	return slices.EqualFunc(a, b, func(x, y int64) bool { return x-y <= 4 && y-x <= 4 })
}

func writeFile(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLimit(t *testing.T) {
	for text, want := range map[string]Limit{"32": 32, "256": 256, "1000000": 1_000_000} {
		if got, err := parsed[Limit](text); err != nil || got != want {
			t.Errorf("%q = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "31", "0", "-1", "1e3", "64.5", "9999999999", "many"} {
		_, err := parsed[Limit](text)
		wantHint(t, err, "want a whole number from 32 up")
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{"16B": 16, "512": 512, "8KiB": 8 << 10, "1MB": 1_000_000} {
		if got, err := parsed[Rate](text); err != nil || got != want {
			t.Errorf("%q = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "15", "-8KiB", "fast", "NaN", "8TiB"} {
		_, err := parsed[Rate](text)
		wantHint(t, err, "want bytes a second from 16B up, such as 8KiB")
	}
}
