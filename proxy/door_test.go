package proxy_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/metrics"
	"hubcap/proxy"
	"hubcap/proxy/access"
	"hubcap/proxy/bypass"
	"hubcap/proxy/port"
)

// canary is what clients send that must turn up nowhere.
const canary = "canary-4c1d9f"

// badRow is a request as a client may send it, and what comes of it.
type badRow struct {
	name   string // what it is about; several rows may share it
	raw    string // the bytes
	status int
	code   string            // of the error; empty where net/http answers, or there is none
	header map[string]string // of the answer; "" for none
	note   string            // where the answer is another than one might expect, and why
}

// ask is a request without a body on a connection of its own.
func ask(method, target string, header ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: hubcap\r\n" + strings.Join(append(header, "Connection: close"), "\r\n") + "\r\n\r\n"
}

func get(target string, header ...string) string { return ask(http.MethodGet, target, header...) }

// manifestOf and the like ask for something in a repository that a row is about.
func manifestOf(name string) string { return get("/v2/" + name + "/manifests/x") }
func blobOf(d string) string        { return get("/v2/a/b/blobs/" + d) }
func nsOf(ns string) string         { return get("/v2/a/manifests/x?ns=" + ns) }

// hex64 is the middle of a digest that nobody has.
var hex64 = strings.Repeat("0123456789abcdef", 4)

// blindRows are refused by their bytes alone: nothing but the parser and the
// list of registries sees them.
var blindRows = []badRow{
	{name: "upper case in a name", raw: manifestOf("Conformance/Repo1"), status: 400, code: "NAME_INVALID"},
	{name: "dots as a part of a name", raw: manifestOf("a/../b"), status: 400, code: "NAME_INVALID", header: map[string]string{"Location": ""}},
	{name: "dots as a part of a name", raw: manifestOf("a/./b"), status: 400, code: "NAME_INVALID", header: map[string]string{"Location": ""}},
	{name: "encoded dots in a name", raw: get("/v2/%2e%2e/%2e%2e/etc/manifests/passwd"), status: 400, code: "NAME_INVALID", header: map[string]string{"Location": ""}},
	{name: "an encoded letter or slash in a name", raw: manifestOf("a%2fb"), status: 400, code: "NAME_INVALID"},
	{name: "an encoded letter or slash in a name", raw: get("/v2/a/b%2Fmanifests%2Fx"), status: 404, code: "UNSUPPORTED"},
	{name: "an encoded letter or slash in a name", raw: manifestOf("%61/b"), status: 400, code: "NAME_INVALID", note: "one spelling, whatever it decodes to"},
	{name: "an empty part of a path", raw: manifestOf("a//b"), status: 400, code: "NAME_INVALID", header: map[string]string{"Location": ""}},
	{name: "an empty part of a path", raw: get("//v2/a/manifests/x"), status: 404, code: "UNSUPPORTED", header: map[string]string{"Location": ""}},
	{name: "an empty part of a path", raw: get("/v2//a/manifests/x"), status: 400, code: "NAME_INVALID"},
	{name: "a separator where none may be in a name", raw: manifestOf("_a"), status: 400, code: "NAME_INVALID"},
	{name: "a separator where none may be in a name", raw: manifestOf("a-"), status: 400, code: "NAME_INVALID"},
	{name: "a separator where none may be in a name", raw: manifestOf("a._b"), status: 400, code: "NAME_INVALID"},
	{name: "a separator where none may be in a name", raw: manifestOf("a..b"), status: 400, code: "NAME_INVALID"},
	{name: "a separator where none may be in a name", raw: manifestOf("a___b"), status: 400, code: "NAME_INVALID"},
	{name: "the length of a name", raw: manifestOf(strings.Repeat("a", 256)), status: 400, code: "NAME_INVALID"},
	{name: "a zero byte in a name", raw: manifestOf("a%00b"), status: 400, code: "NAME_INVALID"},
	{name: "a zero byte in a name", raw: manifestOf("a\x00b"), status: 400, note: "net/http's"},
	{name: "bytes beyond ASCII in a name", raw: manifestOf("%C3%A9"), status: 400, code: "NAME_INVALID"},
	{name: "bytes beyond ASCII in a name", raw: manifestOf("%c0%ae%c0%ae"), status: 400, code: "NAME_INVALID"},
	{name: "bytes beyond ASCII in a name", raw: manifestOf("\xc3\xa9"), status: 400, code: "NAME_INVALID"},
	{name: "an encoded line break in a name", raw: manifestOf("a%0d%0aX-Evil:1"), status: 400, code: "NAME_INVALID", header: map[string]string{"X-Evil": ""}},
	{name: "a name like an endpoint of the protocol", raw: manifestOf("_catalog"), status: 400, code: "NAME_INVALID"},
	{name: "the length of a tag", raw: get("/v2/a/manifests/" + strings.Repeat("t", 129)), status: 404, code: "MANIFEST_UNKNOWN"},
	{name: "a malformed tag", raw: get("/v2/a/manifests/.hidden"), status: 404, code: "MANIFEST_UNKNOWN"},
	{name: "a malformed tag", raw: get("/v2/a/manifests/-x"), status: 404, code: "MANIFEST_UNKNOWN"},
	{name: "a malformed tag", raw: get("/v2/a/manifests/a%00"), status: 404, code: "MANIFEST_UNKNOWN"},
	{name: "a malformed tag", raw: get("/v2/a/manifests/a%20b"), status: 404, code: "MANIFEST_UNKNOWN"},
	{name: "a malformed tag", raw: get("/v2/a/manifests/a b"), status: 400, note: "net/http's: no request line"},
	{name: "a malformed tag", raw: get("/v2/a/manifests/a%2f..%2fb"), status: 400, code: "NAME_INVALID"},
	{name: "a malformed tag", raw: get("/v2/a/manifests/"), status: 404, code: "MANIFEST_UNKNOWN"},
	{name: "a short digest of a manifest", raw: get("/v2/a/manifests/sha256:abcd"), status: 400, code: "DIGEST_INVALID"},
	{name: "upper case in a digest", raw: blobOf("sha256:" + strings.ToUpper(hex64)), status: 400, code: "DIGEST_INVALID"},
	{name: "a digest of another algorithm", raw: blobOf("md5:" + hex64[:32]), status: 400, code: "DIGEST_INVALID"},
	{name: "a digest of another algorithm", raw: blobOf("sha1:" + hex64[:40]), status: 400, code: "DIGEST_INVALID"},
	{name: "a digest of another algorithm", raw: blobOf("sha256+b64:" + hex64), status: 400, code: "DIGEST_INVALID"},
	{name: "a digest of another algorithm", raw: blobOf("crc32:01234567"), status: 400, code: "DIGEST_INVALID"},
	{name: "a digest of another algorithm", raw: blobOf("sha384:" + hex64 + hex64[:32]), status: 400, code: "DIGEST_INVALID"},
	{name: "a malformed digest", raw: blobOf("sha256:" + hex64 + hex64), status: 400, code: "DIGEST_INVALID"},
	{name: "a malformed digest", raw: blobOf("sha512:" + hex64), status: 400, code: "DIGEST_INVALID"},
	{name: "a malformed digest", raw: blobOf("sha256:"), status: 400, code: "DIGEST_INVALID"},
	{name: "a malformed digest", raw: blobOf(hex64), status: 400, code: "DIGEST_INVALID"},
	{name: "a malformed digest", raw: blobOf("sha256:sha256:" + hex64), status: 400, code: "DIGEST_INVALID"},
	{name: "a malformed digest", raw: blobOf("sha256%3A" + hex64), status: 400, code: "DIGEST_INVALID", note: "one spelling"},
	{name: "a malformed digest", raw: get("/v2/a/b/manifests/sha256%3a" + hex64), status: 400, code: "DIGEST_INVALID", note: "one spelling"},
	{name: "a path in a digest", raw: blobOf("sha256:..%2f..%2f" + hex64[:54]), status: 400, code: "DIGEST_INVALID", header: map[string]string{"Location": ""}},
	{name: "a path in a digest", raw: blobOf("sha256:../../" + hex64[:58]), status: 404, code: "UNSUPPORTED", header: map[string]string{"Location": ""}},
	{name: "a tag of a blob", raw: blobOf("latest"), status: 400, code: "DIGEST_INVALID"},

	{name: "a method that writes", raw: body("POST", "/v2/a/blobs/uploads/", 1_000_000, ""), status: 405, code: "UNSUPPORTED", header: map[string]string{"Allow": "GET, HEAD", "Connection": "close"}},
	{name: "a method that writes", raw: body("PATCH", "/v2/a/blobs/uploads/1", 5, ""), status: 405, code: "UNSUPPORTED", header: map[string]string{"Allow": "GET, HEAD", "Connection": "close"}},
	{name: "a method that writes", raw: body("PUT", "/v2/a/manifests/x", 5, "{}{}{"), status: 405, code: "UNSUPPORTED", header: map[string]string{"Allow": "GET, HEAD", "Connection": "close"}},
	{name: "a method that writes", raw: ask("DELETE", "/v2/a/blobs/sha256:"+hex64), status: 405, code: "UNSUPPORTED", header: map[string]string{"Allow": "GET, HEAD", "Connection": "close"}},
	{name: "a method that writes", raw: "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: hubcap\r\nTransfer-Encoding: chunked\r\n\r\n", status: 405, code: "UNSUPPORTED", header: map[string]string{"Allow": "GET, HEAD", "Connection": "close"}},
	{name: "a method that writes", raw: body("PUT", "/v2/a/manifests/x", 5, "", "Expect: 100-continue"), status: 405, code: "UNSUPPORTED", header: map[string]string{"Connection": "close"}},
	{name: "an unknown method", raw: ask("TRACE", "/v2/"), status: 405, code: "UNSUPPORTED", header: map[string]string{"Allow": "GET, HEAD", "Connection": "close"}},
	{name: "an unknown method", raw: ask("FOO", "/v2/a/manifests/x"), status: 405, code: "UNSUPPORTED", note: "no metric has the method"},
	{name: "an unknown method", raw: ask("OPTIONS", "/v2/"), status: 405, code: "UNSUPPORTED"},
	{name: "an unknown method", raw: ask("OPTIONS", "*"), status: 405, code: "UNSUPPORTED"},
	{name: "an unknown method", raw: "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n", status: 405, code: "UNSUPPORTED", header: map[string]string{"Connection": "close"}},
	{name: "an unknown method", raw: ask("get", "/v2/"), status: 405, code: "UNSUPPORTED"},
	{name: "a target that is no path", raw: get("http://169.254.169.254/latest/"), status: 400, code: "UNSUPPORTED"},
	{name: "a target that is no path", raw: get("http://hubcap/v2/"), status: 400, code: "UNSUPPORTED", note: "nothing that pulls sends it"},
	{name: "a target that is no path", raw: get("file:///etc/passwd"), status: 404, code: "UNSUPPORTED"},
	{name: "a target that is no path", raw: get("*"), status: 400, code: "UNSUPPORTED"},
	{name: "the catalog", raw: get("/v2/_catalog?n=9999999999"), status: 404, code: "UNSUPPORTED"},
	{name: "the catalog", raw: get("/v2/_catalog?n=-1"), status: 404, code: "UNSUPPORTED"},
	{name: "the catalog", raw: get("/v2/_catalog?n=abc"), status: 404, code: "UNSUPPORTED"},
	{name: "a number of tags", raw: get("/v2/a/tags/list?n=-1"), status: 400, code: "PAGINATION_NUMBER_INVALID"},
	{name: "a number of tags", raw: get("/v2/a/tags/list?n=abc"), status: 400, code: "PAGINATION_NUMBER_INVALID"},
	{name: "a number of tags", raw: get("/v2/a/tags/list?n=9223372036854775808"), status: 400, code: "PAGINATION_NUMBER_INVALID"},
	{name: "a number of tags", raw: get("/v2/a/tags/list?n="), status: 400, code: "PAGINATION_NUMBER_INVALID"},
	{name: "a number of tags", raw: get("/v2/a/tags/list?n=1&n=2"), status: 400, code: "PAGINATION_NUMBER_INVALID"},
	{name: "the referrers of a tag", raw: get("/v2/a/referrers/latest"), status: 400, code: "DIGEST_INVALID"},
	{name: "a long path", raw: get("/v2/" + strings.Repeat("a", 64<<10) + "/manifests/x"), status: 431, header: map[string]string{"Connection": "close"}, note: "net/http's"},
	{name: "a long path", raw: get("/v2/" + strings.Repeat("a", 2<<20) + "/manifests/x"), status: 431, header: map[string]string{"Connection": "close"}, note: "net/http's"},
	{name: "a large head", raw: get("/v2/", "X-Big: "+strings.Repeat("a", 2<<20)), status: 431, note: "net/http's"},
	{name: "a large head", raw: get("/v2/", slices.Repeat([]string{"X-Many: a"}, 5000)...), status: 431, note: "net/http's: their bytes are bounded, not their number, and 200 small ones are let in"},
	{name: "a large head", raw: get("/v2/", "Authorization: Bearer "+strings.Repeat("a", 1<<20)), status: 431, note: "net/http's"},
	{name: "a malformed Host", raw: "GET /v2/ HTTP/1.1\r\n\r\n", status: 400, note: "net/http's"},
	{name: "a malformed Host", raw: "GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", status: 400, note: "net/http's"},
	{name: "a malformed Host", raw: "GET /v2/ HTTP/1.1\r\nHost: evil/../x\r\n\r\n", status: 400, note: "net/http's"},
	{name: "a request of another protocol", raw: "GET /v2/\r\n\r\n", status: 400, note: "net/http's"},
	{name: "a request of another protocol", raw: "GET /v2/ HTTP/3.7\r\nHost: hubcap\r\n\r\n", status: 505, note: "net/http's"},
	{name: "a request of another protocol", raw: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", status: 400, note: "net/http's: TLS at a port without it"},
	{name: "HTTP/2 without TLS", raw: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", status: 405, code: "UNSUPPORTED", header: map[string]string{"Connection": "close"}, note: "net/http lets it through as a method that there is not"},
	{name: "malformed framing", raw: "GET /v2/ HTTP/1.1\r\nHost: hubcap\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", status: 400, note: "net/http's"},
	{name: "malformed framing", raw: "GET /v2/ HTTP/1.1\r\nHost: hubcap\r\nTransfer-Encoding: xchunked\r\n\r\n", status: 501, note: "net/http's"},
	{name: "malformed framing", raw: "GET /v2/ HTTP/1.1\r\nHost : x\r\n\r\n", status: 400, note: "net/http's"},
	{name: "malformed framing", raw: "GET /v2/ HTTP/1.1\r\nHost: hubcap\r\nContent-Length: -1\r\n\r\n", status: 400, note: "net/http's"},
	{name: "control characters in a header", raw: get("/v2/", "User-Agent: a\x1b[31mb"), status: 400, note: "net/http's"},
	{name: "control characters in a header", raw: get("/v2/", "User-Agent: a\x00b"), status: 400, note: "net/http's"},

	{name: "a local address as ns", raw: nsOf("127.0.0.1:22"), status: 404, code: "NAME_UNKNOWN", header: map[string]string{"Oci-Namespace": ""}},
	{name: "a local address as ns", raw: nsOf("localhost"), status: 404, code: "NAME_UNKNOWN"},
	{name: "a local address as ns", raw: nsOf("[::1]:5000"), status: 404, code: "NAME_UNKNOWN"},
	{name: "a local address as ns", raw: nsOf("0.0.0.0"), status: 404, code: "NAME_UNKNOWN"},
	{name: "a local address as ns", raw: nsOf("[::]"), status: 404, code: "NAME_UNKNOWN"},
	{name: "a metadata service as ns", raw: nsOf("169.254.169.254"), status: 404, code: "NAME_UNKNOWN"},
	{name: "a metadata service as ns", raw: nsOf("100.100.100.200"), status: 404, code: "NAME_UNKNOWN"},
	{name: "a metadata service as ns", raw: nsOf("[fd00:ec2::254]"), status: 404, code: "NAME_UNKNOWN"},
	{name: "a metadata service as ns", raw: nsOf("metadata.google.internal"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an address in disguise as ns", raw: nsOf("[64:ff9b::a9fe:a9fe]"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an address in disguise as ns", raw: nsOf("[2002:a9fe:a9fe::]"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an address in disguise as ns", raw: nsOf("[::ffff:169.254.169.254]"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an address in disguise as ns", raw: nsOf("2130706433"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an address in disguise as ns", raw: nsOf("0x7f.1"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an address in disguise as ns", raw: nsOf("127.1"), status: 404, code: "NAME_UNKNOWN"},
	{name: "a malformed ns", raw: nsOf("docker.io@169.254.169.254"), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf("docker.io#@x"), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf("docker.io%23@x"), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf("docker.io/../x"), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf("docker.io%00.evil"), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf("docker.io:443:80"), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf(strings.Repeat("a", 10<<10)), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf(""), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf("docker.io%0d%0aX-Evil:1"), status: 400, code: "NAME_INVALID", header: map[string]string{"X-Evil": ""}},
	{name: "a malformed ns", raw: nsOf("docker.io;ns=x"), status: 400, code: "NAME_INVALID"},
	{name: "a malformed ns", raw: nsOf("%zz"), status: 400, code: "NAME_INVALID"},
	{name: "two ns", raw: nsOf("docker.io&ns=127.0.0.1"), status: 400, code: "NAME_INVALID"},
	{name: "two ns", raw: nsOf("docker.io&ns=docker.io"), status: 400, code: "NAME_INVALID"},
	{name: "an unknown registry in the path", raw: manifestOf("169.254.169.254/x"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an unknown registry in the path", raw: manifestOf("localhost:22/x"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an unknown registry in the path", raw: get("/169.254.169.254/v2/x/manifests/y"), status: 404, code: "NAME_UNKNOWN"},
	{name: "an unknown registry in the path", raw: get("/../v2/x/manifests/y"), status: 404, code: "NAME_UNKNOWN", note: "as a registry that is not there"},
	{name: "an unknown registry in the path", raw: get("/ghcr.io/v2/x/manifests/y?ns=127.0.0.1"), status: 404, code: "NAME_UNKNOWN"},

	{name: "a path of no mirror port", raw: get("/metrics"), status: 404, code: "UNSUPPORTED"},
	{name: "a path of no mirror port", raw: get("/debug/pprof/"), status: 404, code: "UNSUPPORTED"},
	{name: "a path of no mirror port", raw: get("/debug/vars"), status: 404, code: "UNSUPPORTED"},
	{name: "a path of no mirror port", raw: get("/admin/config"), status: 404, code: "UNSUPPORTED"},
	{name: "a path of no mirror port", raw: get("/healthz"), status: 404, code: "UNSUPPORTED"},
	{name: "a path of no mirror port", raw: get("/"), status: 404, code: "UNSUPPORTED"},
	{name: "a path of no mirror port", raw: get("/v1/_ping"), status: 404, code: "UNSUPPORTED"},
	{name: "a path of no mirror port", raw: get("/v2/a"), status: 404, code: "UNSUPPORTED"},
	{name: "a path of no mirror port", raw: get("/v2/a/tags/other"), status: 404, code: "UNSUPPORTED"},
}

// body is a request that announces a body of n bytes, and brings some of them.
func body(method, target string, n int, brought string, header ...string) string {
	header = append(header, fmt.Sprintf("Content-Length: %d", n))
	return method + " " + target + " HTTP/1.1\r\nHost: hubcap\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n" + brought
}

// TestBadInputIsRefusedBlind sends each row to a whole hubcap, whose registries
// are not asked for anything, and to one without storage, where whatever looked
// for a tag, a file or a token would be a bug that answers 500.
func TestBadInputIsRefusedBlind(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	counters, quiet := metrics.New(), slog.New(slog.DiscardHandler)
	blind := proxy.New(proxy.Options{
		Upstreams: r.handler.Upstreams, Clients: access.NewClients(loopback, nil), Gateway: access.NewGateway(quiet),
		Refusals: access.NewRefusals(time.Now, quiet), Bypass: bypass.New(bypass.Options{Now: time.Now, Metrics: counters, Log: quiet}),
		MinRate: kib, Now: time.Now, Metrics: counters.Requests, Log: quiet,
	})
	for name, address := range map[string]string{"whole": listen(t, r.handler), "login": listen(t, r.handler.Login()), "blind": listen(t, blind)} {
		for _, row := range blindRows {
			t.Run(name+"/"+row.name, func(t *testing.T) {
				row.check(t, exchange(t, address, row.raw))
				if asked := r.asked.Load(); asked != 0 {
					t.Fatalf("%d requests to registries", asked)
				}
			})
		}
	}
	cleanLog(t, r)
	scrape := httptest.NewRecorder()
	r.all.Handler().ServeHTTP(scrape, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if text := scrape.Body.String(); strings.Contains(text, "FOO") || strings.Contains(text, "_catalog") || strings.Contains(text, "169.254") {
		t.Error("a metric has what clients sent")
	}
}

// listen serves a handler at a port like those of package server, and returns its address.
func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	m, log := metrics.New().Ports, slog.New(slog.DiscardHandler)
	p, err := port.Listen(port.Options{
		Name: "mirror", Address: "127.0.0.1:0", Handler: h, HeadTimeout: 5 * time.Second, IdleTimeout: 90 * time.Second, MaxHeader: 16 << 10,
		Limits: port.NewLimits(port.LimitsOptions{Total: 1024, PerClient: 1024, Waiting: 1024, Now: time.Now, Metrics: m, Log: log}),
		Now:    time.Now, Metrics: m, Log: log,
	})
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- p.Serve() }()
	t.Cleanup(func() { p.Close(); <-served })
	return p.Addr().String()
}

// exchange sends bytes and reads what comes until the other side closes.
func exchange(t *testing.T, address, raw string) []byte {
	t.Helper()
	c, err := net.Dial("tcp", address)
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(c, raw) // who has answered need not read all of it
	}()
	answer, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) || err != nil && len(answer) == 0 { // a reset behind the answer is an end too
		t.Fatalf("after %d bytes: %v", len(answer), err)
	}
	c.Close()
	<-sent
	return answer
}

// check holds an answer against its row.
func (row badRow) check(t *testing.T, raw []byte) {
	t.Helper()
	got, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(raw))), &http.Request{Method: row.raw[:max(strings.IndexByte(row.raw, ' '), 0)]})
	if err != nil {
		t.Fatalf("%.100q is no answer: %v", raw, err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil || got.StatusCode != row.status {
		t.Fatalf("%.100q: status %d, %v, want %d; %.200q", row.raw, got.StatusCode, err, row.status, text)
	}
	for name, want := range row.header {
		if value := got.Header.Get(name); value != want && (name != "Connection" || !got.Close) {
			t.Errorf("%.100q: %s %q, want %q", row.raw, name, value, want)
		}
	}
	if got.Header.Get("Www-Authenticate") != "" || got.Header.Get("Location") != "" {
		t.Errorf("%.100q: %v", row.raw, got.Header)
	}
	if row.code == "" {
		return
	}
	var told struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(text, &told); err != nil || len(told.Errors) != 1 || got.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%.100q: %v, %s", row.raw, got.Header, text)
	}
	if one := told.Errors[0]; one.Code != row.code || !slices.Contains(proxy.FixedTexts(), one.Message) || !strings.HasPrefix(got.Header.Get("Cache-Status"), "hubcap") {
		t.Errorf("%.100q: %v, Cache-Status %q; want %s", row.raw, one, got.Header.Get("Cache-Status"), row.code)
	}
}

var logLine = regexp.MustCompile(`^time=\S+ level=[A-Z]+ msg=[\x20-\x7eµ]*$`)

// cleanLog finds what a client has put into the log besides the words of its
// request, each in one line.
func cleanLog(t *testing.T, r *rig) {
	t.Helper()
	for line := range strings.Lines(r.log.String()) {
		if line = strings.TrimSuffix(line, "\n"); !logLine.MatchString(line) || strings.Contains(line, canary) {
			t.Errorf("a line in the log: %.200q", line)
		}
	}
}

// TestBadInput sends bad input for which the cache or a registry is asked. What a
// token gives access to is tested in visibility_test.go, what lists contain in
// lists_test.go.
func TestBadInput(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	address := listen(t, r.handler)
	content := fakehub.RandomBlob(1, 2048)
	img := r.hub.Image("library/demo", "latest", content)
	r.hub.SetTag("library/demo", "newer", img.Manifest.Digest)
	layer := img.Layers[0].Digest.String()
	other := digest.SHA512.FromBytes(content)
	r.hub.AddBlobAs("library/demo", other, content)
	blob := func(header ...string) string { return get("/v2/demo/blobs/"+layer, header...) }
	tag := func(header ...string) string { return get("/v2/demo/manifests/latest", header...) }
	size, whole := fmt.Sprint(len(content)), map[string]string{"Content-Range": "", "Content-Length": fmt.Sprint(len(content))}
	part := func(spec string, n int) map[string]string {
		return map[string]string{"Content-Range": "bytes " + spec + "/" + size, "Content-Length": fmt.Sprint(n)}
	}
	none := map[string]string{"Content-Range": "bytes */" + size}
	many := func(n int, one string) string { return "Range: bytes=" + strings.Repeat(one+",", n-1) + one }
	credentials := []string{"Authorization: Bearer " + canary + "&account=me"}
	for _, row := range []badRow{
		{name: "the length of a name", raw: manifestOf(strings.Repeat("a", 127) + "/" + strings.Repeat("b", 127)), status: 404, code: "MANIFEST_UNKNOWN", note: "255 are accepted"},
		{name: "a name like an endpoint of the protocol", raw: manifestOf("uploads"), status: 404, code: "MANIFEST_UNKNOWN"},
		{name: "a name like an endpoint of the protocol", raw: manifestOf("a/blobs/uploads"), status: 404, code: "MANIFEST_UNKNOWN"},
		{name: "the length of a tag", raw: get("/v2/a/manifests/" + strings.Repeat("t", 128)), status: 404, code: "MANIFEST_UNKNOWN"},
		{name: "a tag that does not exist", raw: get("/v2/demo/manifests/nothing"), status: 404, code: "MANIFEST_UNKNOWN"},
		{name: "a digest that does not exist", raw: get("/v2/demo/manifests/sha256:" + hex64), status: 404, code: "MANIFEST_UNKNOWN"},
		{name: "a digest that does not exist", raw: get("/v2/demo/blobs/sha256:" + hex64), status: 404, code: "BLOB_UNKNOWN"},
		{name: "a digest of SHA-512", raw: get("/v2/demo/blobs/sha512:" + hex64 + hex64), status: 404, code: "BLOB_UNKNOWN"},
		{name: "a digest of SHA-512", raw: get("/v2/demo/blobs/" + other.String()), status: 200, header: map[string]string{"Docker-Content-Digest": other.String()}},

		{name: "a range of a cold blob", raw: blob("Range: bytes=2-4"), status: 206, header: part("2-4", 3), note: "cold; the rest comes behind it, and nothing twice"},
		{name: "a range", raw: blob("Range: bytes=0-9"), status: 206, header: part("0-9", 10)},
		{name: "a range", raw: blob("Range: bytes=10-"), status: 206, header: part("10-2047", 2038)},
		{name: "a range", raw: blob("Range: bytes=-5"), status: 206, header: part("2043-2047", 5)},
		{name: "a range", raw: blob("Range: bytes=2000-5000"), status: 206, header: part("2000-2047", 48)},
		{name: "the last 0 bytes", raw: blob("Range: bytes=-0"), status: 416, code: "RANGE_INVALID", header: none},
		{name: "a range behind the end", raw: blob("Range: bytes=2048-"), status: 416, code: "RANGE_INVALID", header: none},
		{name: "a range that ends before it begins", raw: blob("Range: bytes=500-0"), status: 416, code: "RANGE_INVALID", header: none},
		{name: "a malformed range", raw: blob("Range: bytes=abc"), status: 416, code: "RANGE_INVALID", header: none},
		{name: "a malformed range", raw: blob("Range: bytes="), status: 416, code: "RANGE_INVALID", header: none},
		{name: "a malformed range", raw: blob("Range: bytes=1-2-3"), status: 416, code: "RANGE_INVALID", header: none},
		{name: "a range of another unit", raw: blob("Range: items=0-5"), status: 200, header: whole},
		{name: "two ranges", raw: blob("Range: bytes=0-1,4-5"), status: 200, header: whole},
		{name: "many ranges", raw: blob(many(1000, "0-0")), status: 200, header: whole},
		{name: "many ranges", raw: blob(many(200, "0-")), status: 200, header: whole},
		{name: "many ranges", raw: blob("Range: bytes=0-1", "Range: bytes=4-5"), status: 206, header: part("0-1", 2), note: "one Range: the first is it"},
		{name: "a range beyond 64 bits", raw: blob("Range: bytes=99999999999999999999-"), status: 416, code: "RANGE_INVALID", header: none},
		{name: "an If-Range that does not match", raw: blob("Range: bytes=0-9", `If-Range: "nope"`), status: 200, header: whole},
		{name: "a range where none is served", raw: ask("HEAD", "/v2/demo/blobs/"+layer, "Range: bytes=0-9"), status: 200, header: whole},
		{name: "a range where none is served", raw: tag("Range: bytes=0-9"), status: 200, header: map[string]string{"Content-Range": "", "Docker-Content-Digest": img.Manifest.Digest.String()}},
		{name: "an If-None-Match", raw: blob(`If-None-Match: "` + layer + `"`), status: 304},
		{name: "an If-None-Match", raw: tag("If-None-Match: *"), status: 304},
		{name: "an If-None-Match", raw: tag(`If-None-Match: W/"` + img.Manifest.Digest.String() + `"`), status: 304},

		{name: "the ping without its slash", raw: get("/v2"), status: 200},
		{name: "a number of tags", raw: get("/v2/demo/tags/list?n=0"), status: 200},
		{name: "a number of tags", raw: get("/v2/demo/tags/list?n=2&last=%0d%0aX-Evil:1"), status: 200, header: map[string]string{"X-Evil": ""}},
		{name: "a page of tags", raw: get("/v2/demo/tags/list?n=1&last=a"), status: 200, header: map[string]string{"Link": `</v2/demo/tags/list?last=latest&n=1>; rel="next"`}},
		{name: "a page of tags", raw: get("/v2/demo/tags/list?n=2&last=a"), status: 200, header: map[string]string{"Link": ""}},
		{name: "referrers", raw: get("/v2/demo/referrers/" + layer), status: 200, header: map[string]string{"Content-Type": v1.MediaTypeImageIndex}},
		{name: "the tags of an unknown repository", raw: get("/v2/unknown/tags/list"), status: 404, code: "NAME_UNKNOWN"},
		{name: "HTTP/1.0", raw: "GET /v2/ HTTP/1.0\r\n\r\n", status: 200, header: map[string]string{"Connection": "close"}},
		{name: "a foreign Host", raw: "GET /v2/demo/tags/list?n=1 HTTP/1.1\r\nHost: attacker.example\r\nConnection: close\r\n\r\n", status: 200},
		{name: "headers of a proxy that is not trusted", raw: tag("X-Forwarded-Host: attacker.example", "X-Forwarded-Proto: gopher", "X-Forwarded-For: 192.0.2.1", "Forwarded: host=attacker.example"), status: 200},
		{name: "two lengths of one body", raw: "GET /v2/ HTTP/1.1\r\nHost: hubcap\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", status: 200,
			header: map[string]string{"Connection": "close"}, note: "net/http drops the length; the connection ends, so that nothing behind it is read as a request"},
		{name: "lenient line ends", raw: "GET /v2/ HTTP/1.1\r\nHost: hubcap\r\nX-Folded: a\r\n b\r\nConnection: close\r\n\r\n", status: 200, note: "net/http joins the lines; no folded header is looked at"},
		{name: "lenient line ends", raw: "GET /v2/ HTTP/1.1\nHost: hubcap\nConnection: close\n\n", status: 200, note: "net/http takes a bare LF; hubcap stands behind no other parser"},
		{name: "a body of a GET", raw: body("GET", "/v2/demo/manifests/latest", 5, "hello"), status: 200, header: map[string]string{"Connection": "close"}},
		{name: "a body of a GET", raw: body("GET", "/v2/", 5, ""), status: 200, header: map[string]string{"Connection": "close"}, note: "a body that does not come is not waited for"},
		{name: "a body of a GET", raw: body("GET", "/v2/", 5_000_000_000, "hello"), status: 200, header: map[string]string{"Connection": "close"}},
		{name: "a body of a GET", raw: body("GET", "/v2/", 5, "", "Expect: 100-continue"), status: 200, header: map[string]string{"Connection": "close"}},
		{name: "a body of a GET", raw: get("/v2/", "Expect: miracles"), status: 417, note: "net/http's"},
		{name: "an Accept-Encoding", raw: blob("Accept-Encoding: gzip, br"), status: 200, header: map[string]string{"Content-Encoding": "", "Vary": "", "Content-Length": size}},
		{name: "an Accept-Encoding", raw: tag("Accept-Encoding: gzip, br"), status: 200, header: map[string]string{"Content-Encoding": "", "Vary": ""}},
		{name: "an Accept of another type", raw: tag("Accept: text/html"), status: 200, header: map[string]string{"Content-Type": img.Manifest.MediaType}, note: "what there is; a client that cannot use it says so itself"},
		{name: "a long Accept", raw: tag("Accept: " + strings.Repeat("text/html,", 1500) + "*/*"), status: 200, note: "nobody reads Accept"},
		{name: "a long Accept", raw: tag("Accept: " + strings.Repeat("text/html,", 10_000) + "*/*"), status: 431, note: "net/http's"},
		{name: "malformed Authorization", raw: get("/v2/a/manifests/cold", "Authorization: Basic !!!!"+canary), status: 404, code: "MANIFEST_UNKNOWN"},
		{name: "malformed Authorization", raw: get("/v2/a/manifests/cold", "Authorization: Strange "+canary), status: 404, code: "MANIFEST_UNKNOWN"},
		{name: "malformed Authorization", raw: tag("Authorization: Basic "+canary, "Authorization: Bearer "+canary), status: 200},
		{name: "a token that nobody asked for", raw: get("/v2/b/manifests/cold", credentials...), status: 404, code: "MANIFEST_UNKNOWN"},
		{name: "control characters in a header", raw: tag(`User-Agent: "` + canary + `"\n`), status: 200, note: "no log has it"},
		{name: "another spelling of Docker Hub as ns", raw: get("/v2/demo/manifests/latest?ns=DOCKER.IO"), status: 200},
		{name: "another spelling of Docker Hub as ns", raw: get("/v2/demo/manifests/latest?ns=index.docker.io"), status: 200},
		{name: "another spelling of Docker Hub as ns", raw: get("/v2/demo/manifests/latest?ns=registry-1.docker.io"), status: 200},
		{name: "another spelling of Docker Hub as ns", raw: get("/v2/demo/manifests/latest?ns=docker.io."), status: 200},
		{name: "another spelling of Docker Hub as ns", raw: get("/v2/demo/manifests/latest?ns=docker.io:443"), status: 200},
		{name: "ns of Docker Hub", raw: get("/v2/demo/manifests/latest?ns=docker.io"), status: 200, header: map[string]string{"Oci-Namespace": "docker.io"}},
		{name: "health", raw: get("/livez"), status: 200},
		{name: "health", raw: get("/readyz"), status: 200},
	} {
		t.Run(row.name, func(t *testing.T) {
			answer := exchange(t, address, row.raw)
			row.check(t, answer)
			if strings.Contains(string(answer), "attacker") || strings.Contains(string(answer), canary) {
				t.Errorf("%.100q comes back: %q", row.raw, answer)
			}
			r.settle()
		})
	}
	if n := r.hub.BytesSent(img.Layers[0].Digest); n > int64(len(content))+kib { // the bodies of refusals count too
		t.Errorf("%d bytes of the layer crossed", n)
	}
	for _, one := range r.hub.Log() {
		if sent := fmt.Sprint(one.Header, one.Repo, one.Reference); strings.Contains(sent, canary) || strings.Contains(sent, "attacker") || strings.Contains(sent, "Forwarded") {
			t.Errorf("a registry was told: %s", sent)
		}
	}
	cleanLog(t, r)
}

// TestPipelining: answers come in the order of the requests.
func TestPipelining(t *testing.T) {
	r := newRig(t, rigOptions{})
	address := listen(t, r.handler)
	for _, n := range []int{3, 1000} {
		var raw strings.Builder
		want := make([]int, n)
		for i := range n {
			method, target := "GET", "/v2/"
			if want[i] = 200; i%2 == 1 {
				target, want[i] = "/v2/A/manifests/x", 400
			}
			fmt.Fprintf(&raw, "%s %s HTTP/1.1\r\nHost: hubcap\r\n", method, target)
			if i == n-1 {
				raw.WriteString("Connection: close\r\n")
			}
			raw.WriteString("\r\n")
		}
		answers := bufio.NewReader(strings.NewReader(string(exchange(t, address, raw.String()))))
		for i := range n {
			got, err := http.ReadResponse(answers, nil)
			must(t, err)
			if _, err := io.Copy(io.Discard, got.Body); err != nil || got.StatusCode != want[i] {
				t.Fatalf("answer %d of %d: %d, %v", i, n, got.StatusCode, err)
			}
		}
		if _, err := answers.ReadByte(); err != io.EOF {
			t.Errorf("more than %d answers", n)
		}
	}
}
