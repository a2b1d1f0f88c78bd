package proxy

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The grammar of the OCI distribution specification, as it stands there.
var (
	specName   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	specTag    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	specDigest = regexp.MustCompile(`^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$`)
)

// The ways to write a path and a registry, each as one expression.
var (
	specAPI      = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs|referrers|tags)/([^/]*)$`)
	specAPIOf    = regexp.MustCompile(`^/([^/]+)/v2/(.+)/(manifests|blobs|referrers|tags)/([^/]*)$`)
	specPing     = regexp.MustCompile(`^(?:/([^/]+))?/v2/?$`)
	specRegistry = regexp.MustCompile(`^([A-Za-z0-9._-]+|\[[a-z0-9:.]+\])(:[0-9]{1,5})?$`)
	specPage     = regexp.MustCompile(`^[0-9]{1,9}$`)

	knownSpellings = []struct {
		spelling *regexp.Regexp
		host     string // "" for the spelling in lower case, up to the capture's end
	}{
		{regexp.MustCompile(`^(?i:(?:index\.|registry-1\.)?docker\.io)\.?(?::443)?$`), "docker.io"},
		{regexp.MustCompile(`^(?i:ghcr\.io)\.?(?::443)?$`), "ghcr.io"},
		{regexp.MustCompile(`^(?i:gcr\.io)\.?(?::443)?$`), "gcr.io"},
		{regexp.MustCompile(`^(?i:harbor)\.?(?::443)?$`), "harbor"},
		{regexp.MustCompile(`^(?i:registry\.example\.com:8443)$`), "registry.example.com:8443"},
		{regexp.MustCompile(`^(?i:([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.pkg\.dev))\.?(?::443)?$`), ""},
	}
)

// slowFind looks a registry up by the expressions.
func slowFind(name string) (host string, known, valid bool) {
	if !specRegistry.MatchString(name) || len(name) > 261 {
		return "", false, false
	}
	for _, one := range knownSpellings {
		if m := one.spelling.FindStringSubmatch(name); m != nil {
			if host = one.host; host == "" {
				host = strings.ToLower(m[1])
			}
			return host, true, true
		}
	}
	return "", false, true
}

// slowRoute reads a path and a query by the expressions: what it means, or
// nothing.
func slowRoute(path, rawQuery, def string) (means string) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil || len(query["ns"]) > 1 {
		return ""
	}
	var host, name, kind, reference string
	if m := specAPI.FindStringSubmatch(path); m != nil {
		name, kind, reference = m[1], m[2], m[3]
	} else if m := specPing.FindStringSubmatch(path); m != nil {
		host, kind = m[1], "ping"
	} else if m := specAPIOf.FindStringSubmatch(path); m != nil && m[1] != "v2" {
		host, name, kind, reference = m[1], m[2], m[3], m[4]
	} else {
		return ""
	}
	for i, named := range append([]string{host}, query["ns"]...) {
		if i == 0 && named == "" {
			continue
		}
		found, known, valid := slowFind(named)
		if !known || !valid || i == 1 && host != "" && found != host {
			return ""
		}
		host = found
	}
	if kind == "ping" {
		if host == "" {
			host = def
		}
		return host + " ping"
	}
	first, rest, nested := strings.Cut(name, "/")
	if nested && regexp.MustCompile(`[.:]|^localhost$`).MatchString(first) {
		found, known, valid := slowFind(first)
		switch {
		case known && (host == "" || host == found):
			host, name = found, rest
		case !valid, host == "" && (def == "docker.io" || !specName.MatchString(first)):
			return ""
		}
	}
	if host == "" {
		host = def
	}
	if !specName.MatchString(name) || len(name) > maxName {
		return ""
	}
	if host == "docker.io" && !strings.Contains(name, "/") {
		name = "library/" + name
	}
	ok := specDigest.MatchString(reference)
	switch kind {
	case "manifests":
		ok = ok || specTag.MatchString(reference)
	case "tags":
		ok = reference == "list" && (!query.Has("n") || len(query["n"]) == 1 && specPage.MatchString(query.Get("n")))
	}
	if !ok {
		return ""
	}
	return host + " " + name + " " + kind + " " + reference
}

// FuzzRoute: what is accepted is exactly what the expressions accept, for what
// they take it, and encodes to a path that is read the same way again.
func FuzzRoute(f *testing.F) {
	d := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	for _, target := range []string{
		"/v2/", "/v2", "/livez", "/v2/demo/manifests/latest", "/v2/library/demo/blobs/" + d,
		"/v2/ghcr.io/owner/app/manifests/v1?ns=ghcr.io", "/docker.io/v2/a/b/c/tags/list?n=5&last=x",
		"/v2/a/referrers/" + d, "/v2/a__b/c-d.e/manifests/" + d, "/v2/a/../b/manifests/x", "/v2/a%2fb/manifests/x",
		"/v2/localhost:5000/a/manifests/x", "//v2/a/manifests/x", "/v2//manifests/x", "/v2/manifests/manifests/manifests",
		"/v2/a/blobs/uploads/", "/v2/_catalog", "http://evil.example/v2/", "/v2/v2/v2/manifests/v2",
		"/ghcr.io/v2/ghcr.io/ghcr.io/a/manifests/x?ns=GHCR.io.", "/harbor/v2/harbor/a/tags/list?n=0&ns=harbor",
		"/v2/x.pkg.dev/a/b/manifests/x", "/v2/google.com/a/b/manifests/x", "/v2/registry.example.com:8443/a/manifests/x?ns=registry.example.com:8443",
		"/ghcr.io/v2/?ns=docker.io", "/v2/a/manifests/x?ns=[::1]:5000", "/v2/harbor:443/a/manifests/x", "/v2/localhost/a/manifests/x",
	} {
		f.Add(target, true)
		f.Add(target, false)
	}
	known := registriesOf(f, "docker.io", "ghcr.io", "gcr.io", "harbor", "registry.example.com:8443", "*.pkg.dev")
	gcr, _ := known.Find("gcr.io")
	f.Fuzz(func(t *testing.T, target string, atHub bool) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			t.Skip()
		}
		def := known.Default()
		if !atHub {
			def = gcr
		}
		rt, err := parseRoute(&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}, known, def)
		if _, ok := err.(*apiError); err != nil && !ok { //nolint:errorlint // exactly this type is what is asked
			t.Fatalf("%q: an error that is not for clients: %v", target, err)
		}
		if err == nil && (rt.live || rt.ready) {
			return
		}
		got := ""
		if err == nil {
			got = means(rt)
		}
		if want := slowRoute(u.EscapedPath(), u.RawQuery, def.Host); got != want {
			t.Fatalf("%q: %q (%v), want %q", target, got, err, want)
		}
		if err != nil || rt.kind == kindPing {
			return
		}
		again, err := parseRoute(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: encode(rt)}, Header: http.Header{}}, known, def)
		if err != nil || means(again) != got || encode(again) != encode(rt) {
			t.Fatalf("%q: %q became %q, %v", target, got, encode(rt), err)
		}
		// One spelling: what is spelled so already stays as it is.
		if rest, ok := strings.CutPrefix(u.EscapedPath(), canonicalPrefix(rt.upstream.Host)); ok && rt.ns == "" && strings.HasPrefix(rest, rt.name+"/") && encode(rt) != u.EscapedPath() {
			t.Fatalf("%q encodes to %q", target, encode(rt))
		}
	})
}

// means is a route in the words of slowRoute.
func means(rt route) string {
	switch rt.kind {
	case kindPing:
		return rt.upstream.Host + " ping"
	case kindManifest:
		return rt.upstream.Host + " " + rt.name + " manifests " + rt.tag + rt.digest.String()
	case kindBlob:
		return rt.upstream.Host + " " + rt.name + " blobs " + rt.digest.String()
	case kindReferrers:
		return rt.upstream.Host + " " + rt.name + " referrers " + rt.digest.String()
	default:
		return rt.upstream.Host + " " + rt.name + " tags list"
	}
}

// canonicalPrefix names a registry in the one way that is unambiguous for it.
func canonicalPrefix(host string) string {
	if looksLikeHost(host) {
		return "/v2/" + host + "/"
	}
	return "/" + host + "/v2/"
}

// encode is the canonical path of a route.
func encode(rt route) string {
	_, rest, _ := strings.Cut(means(rt), " ")
	return canonicalPrefix(rt.upstream.Host) + strings.ReplaceAll(rest, " ", "/")
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
	slowUnit  = regexp.MustCompile(`(?is)^[ \t]*bytes[ \t]*=([^,]*)$`)
	slowRange = regexp.MustCompile(`^[ \t]*([0-9]*)-([0-9]*)[ \t]*$`)
)

func slowSpan(header string, size int64) (off, n int64, partial, ok bool) {
	unit := slowUnit.FindStringSubmatch(header)
	if unit == nil {
		return 0, size, false, true
	}
	m := slowRange.FindStringSubmatch(unit[1])
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
