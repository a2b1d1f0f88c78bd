package proxy

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"hubcap/metrics"
	"hubcap/proxy/upstream"
)

// someRegistries is a look-up of two names.
type someRegistries struct{ hub, other *upstream.Upstream }

func (s someRegistries) Find(name string) (*upstream.Upstream, bool) {
	switch strings.ToLower(name) {
	case "docker.io":
		return s.hub, true
	case "ghcr.io":
		return s.other, true
	}
	return nil, false
}

// The grammar of the OCI distribution specification, as it stands there.
var (
	specName   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	specTag    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	specDigest = regexp.MustCompile(`^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$`)
)

// FuzzRoute: what is accepted is in the grammar and encodes to a path that is
// read the same way again.
func FuzzRoute(f *testing.F) {
	d := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	for _, target := range []string{
		"/v2/", "/v2", "/livez", "/v2/demo/manifests/latest", "/v2/library/demo/blobs/" + d,
		"/v2/ghcr.io/owner/app/manifests/v1?ns=ghcr.io", "/docker.io/v2/a/b/c/tags/list?n=5&last=x",
		"/v2/a/referrers/" + d, "/v2/a__b/c-d.e/manifests/" + d, "/v2/a/../b/manifests/x", "/v2/a%2fb/manifests/x",
		"/v2/localhost:5000/a/manifests/x", "//v2/a/manifests/x", "/v2//manifests/x", "/v2/manifests/manifests/manifests",
		"/v2/a/blobs/uploads/", "/v2/_catalog", "http://evil.example/v2/", "/v2/v2/v2/manifests/v2",
	} {
		f.Add(target)
	}
	known := someRegistries{&upstream.Upstream{Host: upstream.DockerHub}, &upstream.Upstream{Host: "ghcr.io"}}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Skip()
		}
		rt, err := parseRoute(&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}, known, known.hub)
		if err != nil {
			if _, ok := err.(*apiError); !ok { //nolint:errorlint // exactly this type is what is asked
				t.Fatalf("%q: an error that is not for clients: %v", target, err)
			}
			return
		}
		if rt.kind == metrics.KindOther || rt.kind == metrics.KindPing {
			return
		}
		if rt.upstream == nil || len(rt.name) > maxName+len("library/") || !specName.MatchString(rt.name) {
			t.Fatalf("%q: name %q", target, rt.name)
		}
		if (rt.tag == "") == (rt.digest == "") && rt.kind != metrics.KindTags {
			t.Fatalf("%q: tag %q, digest %q", target, rt.tag, rt.digest)
		}
		if rt.tag != "" && !specTag.MatchString(rt.tag) || rt.digest != "" && !specDigest.MatchString(rt.digest.String()) {
			t.Fatalf("%q: tag %q, digest %q", target, rt.tag, rt.digest)
		}
		again, err := parseRoute(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: encode(rt)}, Header: http.Header{}}, known, known.hub)
		if err != nil || again.upstream != rt.upstream || again.name != rt.name || again.tag != rt.tag || again.digest != rt.digest || again.kind != rt.kind {
			t.Fatalf("%q: %+v became %+v, %v", target, rt, again, err)
		}
	})
}

// encode is the canonical path of a route.
func encode(rt route) string {
	path := "/" + rt.upstream.Host + "/v2/" + rt.name
	switch rt.kind {
	case metrics.KindManifest:
		return path + "/manifests/" + rt.tag + rt.digest.String()
	case metrics.KindBlob:
		return path + "/blobs/" + rt.digest.String()
	case metrics.KindReferrers:
		return path + "/referrers/" + rt.digest.String()
	default:
		return path + "/tags/list"
	}
}

// FuzzNameAndTag: the hand-written matchers accept exactly the grammar.
func FuzzNameAndTag(f *testing.F) {
	for _, s := range []string{"a", "a/b", "a--b", "a___b", "a._b", "library/demo", "-a", "a-", "A", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := isName(s), len(s) <= maxName && specName.MatchString(s); got != want {
			t.Errorf("isName(%q) = %v", s, got)
		}
		if got, want := isTag(s), specTag.MatchString(s) && !strings.HasSuffix(s, "\n"); got != want {
			t.Errorf("isTag(%q) = %v", s, got)
		}
	})
}

// FuzzSpan compares with a slow reading of the same rules.
func FuzzSpan(f *testing.F) {
	for _, s := range []string{
		"", "bytes=0-9", "bytes=10-", "bytes=-5", "bytes=-0", "bytes=5-2", "bytes=a-b", "bytes=1-2,3-4",
		"items=1-2", "bytes=99999999999999999999-", "bytes = 1-2", "bytes=+1-2", "bytes=1-+2", "BYTES=0-0",
	} {
		f.Add(s, int64(1000))
		f.Add(s, int64(0))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			t.Skip()
		}
		off, n, partial, ok := parseSpan(header).of(size)
		wantOff, wantN, wantPartial, wantOK := slowSpan(header, size)
		if off != wantOff || n != wantN || partial != wantPartial || ok != wantOK {
			t.Fatalf("%q of %d: %d+%d %v %v, want %d+%d %v %v", header, size, off, n, partial, ok, wantOff, wantN, wantPartial, wantOK)
		}
		if ok && (off < 0 || n < 0 || off+n > size || partial && n == 0) {
			t.Fatalf("%q of %d: %d+%d", header, size, off, n)
		}
	})
}

var (
	slowUnit  = regexp.MustCompile(`(?is)^\s*bytes\s*=([^,]*)$`)
	slowRange = regexp.MustCompile(`^([0-9]*)-([0-9]*)$`)
)

func slowSpan(header string, size int64) (off, n int64, partial, ok bool) {
	unit := slowUnit.FindStringSubmatch(header)
	if unit == nil {
		return 0, size, false, true
	}
	m := slowRange.FindStringSubmatch(strings.TrimSpace(unit[1]))
	if m == nil || m[1]+m[2] == "" {
		return 0, 0, false, false
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 1<<63 - 1
		}
		return n
	}
	if m[1] == "" {
		n = min(number(m[2]), size)
		if n == 0 {
			return 0, 0, false, false
		}
		return size - n, n, true, true
	}
	first, last := number(m[1]), int64(1<<63-1)
	if m[2] != "" {
		last = number(m[2])
	}
	if first > last || first >= size {
		return 0, 0, false, false
	}
	return first, min(last, size-1) - first + 1, true, true
}
