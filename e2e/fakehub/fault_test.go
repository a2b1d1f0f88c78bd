package fakehub

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// clientGone is when a client cancels a request whose answer hangs, after what it is to
// be given.
const clientGone = 100 * time.Millisecond

// read requests a URL and reads until the end, an error, or clientGone after the first n
// bytes.
func read(h *Hub, url string, n int, headers ...string) reply {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	resp, err := h.Client().Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body := make([]byte, n)
	n, err = io.ReadFull(resp.Body, body)
	if err != nil {
		return reply{resp, body[:n], err}
	}
	defer time.AfterFunc(clientGone, cancel).Stop()
	more, err := io.ReadAll(resp.Body)
	return reply{resp, append(body, more...), err}
}

// flipped returns data with a bit flipped at an offset.
func flipped(data []byte, offset int) []byte {
	data = bytes.Clone(data)
	data[offset] ^= 1
	return data
}

func TestBodyFaults(t *testing.T) {
	const size = 1<<20 + 100
	data := RandomBlob(9, size)
	cases := map[string]struct {
		fault  Fault
		header string
		status int
		body   []byte
		broken bool // the client sees an error
		length int64
	}{
		"cut at the first byte":    {Fault{CutAt: At(0)}, "", 200, nil, true, size},
		"cut after one byte":       {Fault{CutAt: At(1)}, "", 200, data[:1], true, size},
		"cut in the middle":        {Fault{CutAt: At(1 << 19)}, "", 200, data[:1<<19], true, size},
		"cut before the last byte": {Fault{CutAt: At(size - 1)}, "", 200, data[:size-1], true, size},
		"cut within a range":       {Fault{CutAt: At(1500)}, "bytes=1000-", 206, data[1000:1500], true, size - 1000},
		"cut outside the range":    {Fault{CutAt: At(500)}, "bytes=1000-", 206, data[1000:], false, size - 1000},
		"stall":                    {Fault{StallAt: At(70000)}, "", 200, data[:70000], true, size},
		"stall within a range":     {Fault{StallAt: At(1500)}, "bytes=1000-1999", 206, data[1000:1500], true, 1000},
		"corrupt first byte":       {Fault{CorruptAt: At(0)}, "", 200, flipped(data, 0), false, size},
		"corrupt middle byte":      {Fault{CorruptAt: At(1 << 20)}, "", 200, flipped(data, 1<<20), false, size},
		"corrupt last byte":        {Fault{CorruptAt: At(size - 1)}, "", 200, flipped(data, size-1), false, size},
		"corrupt within a range":   {Fault{CorruptAt: At(1234)}, "bytes=1000-", 206, flipped(data, 1234)[1000:], false, size - 1000},
		"corrupt, then cut":        {Fault{CorruptAt: At(10), CutAt: At(20)}, "", 200, flipped(data, 10)[:20], true, size},
		"truncated":                {Fault{Truncate: At(1000)}, "", 200, data[:1000], false, 1000},
		"truncated, with a range":  {Fault{Truncate: At(1000)}, "bytes=400-", 206, data[400:1000], false, 600},
		"declared too long":        {Fault{ExtraLength: 1000}, "", 200, data, true, size + 1000},
		"declared too short":       {Fault{ExtraLength: -1000}, "", 200, data[:size-1000], false, size - 1000},
		"wrong length":             {Fault{WrongLength: "5"}, "", 200, data[:5], false, 5},
		"too long, then cut":       {Fault{ExtraLength: 1000, CutAt: At(30)}, "", 200, data[:30], true, size + 1000},
		"too long, then stall":     {Fault{ExtraLength: 1000, StallAt: At(30)}, "", 200, data[:30], true, size + 1000},
		"no length":                {Fault{NoLength: true}, "", 200, data, false, -1},
		"until close":              {Fault{UntilClose: true}, "", 200, data, false, -1},
		"ignored range":            {Fault{IgnoreRange: true}, "bytes=1000-", 200, data, false, size},
		"slow headers":             {Fault{HeaderDelay: time.Millisecond}, "", 200, data, false, size},
		"slow body":                {Fault{BodyDelay: time.Millisecond}, "", 200, data, false, size},
		"other body":               {Fault{Body: []byte("other")}, "", 200, []byte("other"), false, 5},
	}
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for where, options := range map[string]Options{"http": {}, "TLS": {TLS: true}, "direct": {DirectBlobs: true}} {
		options.Anonymous = true
		h := Start(t, options)
		var d digest.Digest
		if d = h.AddBlob(repo, data); where != "http" {
			d, _ = h.AddBlobFile(repo, file)
		}
		for name, c := range cases {
			t.Run(where+", "+name, func(t *testing.T) {
				h.Reset()
				kind := KindCDN
				if where == "direct" {
					kind = KindBlob
				}
				h.Script(Once(&c.fault, OfKind(kind)))
				var headers []string
				if c.header != "" {
					headers = []string{"Range: " + c.header}
				}
				var r reply
				if c.fault.StallAt != nil {
					r = read(h, h.RegistryURL()+blobURL(d), len(c.body), headers...)
				} else {
					r = do(t, h, "GET", h.RegistryURL()+blobURL(d), headers...)
				}
				if r.Response == nil || r.StatusCode != c.status || !bytes.Equal(r.body, c.body) || (r.err != nil) != c.broken || r.ContentLength != c.length {
					t.Fatalf("got %v", r)
				}
				if n := h.BytesSent(d); n != int64(len(c.body)) && c.fault.ExtraLength >= 0 && c.fault.WrongLength == "" {
					t.Errorf("log has %d bytes sent, not %d", n, len(c.body))
				}
				if r := do(t, h, "GET", h.RegistryURL()+blobURL(d)); !r.is(200) || !bytes.Equal(r.body, data) {
					t.Errorf("the next request: %v", r)
				}
			})
		}
	}
}

func TestBodyFaultsOnHTTP2(t *testing.T) {
	h := Start(t, Options{TLS: true, HTTP2: true, Anonymous: true})
	data := RandomBlob(9, 300<<10)
	d := h.AddBlob(repo, data)
	h.Script(Once(&Fault{CutAt: At(100 << 10)}, OfKind(KindCDN)))
	if r := do(t, h, "GET", h.RegistryURL()+blobURL(d)); r.err == nil || !bytes.Equal(r.body, data[:100<<10]) {
		t.Errorf("cut: %v", r)
	}
	h.Script(Once(&Fault{StallAt: At(1000)}, OfKind(KindCDN)))
	if r := read(h, h.RegistryURL()+blobURL(d), 1000); r.err == nil || len(r.body) != 1000 {
		t.Errorf("stall: %v", r)
	}
	h.Script(nil)
	if r := do(t, h, "GET", h.RegistryURL()+blobURL(d)); !r.is(200) || r.ProtoMajor != 2 || !bytes.Equal(r.body, data) {
		t.Errorf("after the faults: %v", r)
	}
}

// TestResume: a body that stalls goes on when it is told to.
func TestResume(t *testing.T) {
	for name, options := range modes {
		t.Run(name, func(t *testing.T) {
			options.Anonymous = true
			h, resume := Start(t, options), make(chan struct{})
			data := RandomBlob(9, 300<<10)
			d := h.AddBlob(repo, data)
			h.Script(Once(&Fault{StallAt: At(1000), Resume: resume}, OfKind(KindCDN)))
			resp, err := h.Client().Get(h.RegistryURL() + blobURL(d))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			first := make([]byte, 1000)
			if _, err := io.ReadFull(resp.Body, first); err != nil {
				t.Fatal(err)
			}
			if n := h.BytesSent(d); n != 1000 {
				t.Errorf("%d bytes are sent before it goes on", n)
			}
			close(resume)
			if rest, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(append(first, rest...), data) {
				t.Errorf("%d bytes, %v", len(rest), err)
			}
		})
	}
}

func TestAnswerFaults(t *testing.T) {
	h := Start(t, Options{Anonymous: true})
	d := h.Image(repo, "latest", []byte("layer")).Manifest.Digest
	for name, c := range map[string]struct {
		fault Fault
		check func(r reply) bool
	}{
		"status": {Fault{Status: 503, Header: http.Header{"Retry-After": {"1"}}, Body: []byte("busy")}, func(r reply) bool {
			return r.is(503) && r.Header.Get("Retry-After") == "1" && string(r.body) == "busy"
		}},
		"captive portal": {Fault{HTML: true}, func(r reply) bool {
			return r.is(200) && strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") && strings.Contains(string(r.body), "<html>")
		}},
		"foreign realm": {Fault{ForeignRealm: "http://evil.test/token"}, func(r reply) bool {
			return r.is(401) && strings.HasPrefix(r.Header.Get("Www-Authenticate"), `Bearer realm="http://evil.test/token",`)
		}},
		"reset":            {Fault{CloseBeforeHeaders: true}, func(r reply) bool { return r.err != nil }},
		"no digest header": {Fault{DropDigestHeader: true}, func(r reply) bool { return r.is(200) && r.Header["Docker-Content-Digest"] == nil }},
		"wrong digest":     {Fault{WrongDigestHeader: "sha256:0"}, func(r reply) bool { return r.Header.Get("Docker-Content-Digest") == "sha256:0" }},
		"no type":          {Fault{DropContentType: true}, func(r reply) bool { return r.is(200) && r.Header["Content-Type"] == nil }},
		"header laid over": {Fault{Header: http.Header{"etag": {"x"}}}, func(r reply) bool { return r.is(200) && r.Header.Get("Etag") == "x" }},
		"another body": {Fault{Body: []byte("{}")}, func(r reply) bool {
			return string(r.body) == "{}" && r.Header.Get("Docker-Content-Digest") == d.String()
		}},
		"truncated manifest": {Fault{Truncate: At(3)}, func(r reply) bool { return r.is(200) && len(r.body) == 3 }},
		"delay":              {Fault{Delay: time.Millisecond}, func(r reply) bool { return r.is(200) }},
	} {
		h.Script(Once(&c.fault, OfKind(KindManifest)))
		h.Client().CloseIdleConnections() // Go's client tries again when a connection it kept is reset
		if r := do(t, h, "GET", h.RegistryURL()+manifestURL("latest")); !c.check(r) {
			t.Errorf("%s: %v %s", name, r, r.body)
		}
		if r := do(t, h, "GET", h.RegistryURL()+manifestURL("latest")); !r.is(200) || digest.FromBytes(r.body) != d {
			t.Errorf("after %s: %v", name, r)
		}
	}
}

func TestLengthBeyondInt64(t *testing.T) {
	h := Start(t, Options{Anonymous: true})
	h.Image(repo, "latest")
	h.Script(Always(&Fault{WrongLength: "9223372036854775808"}))
	c, err := net.Dial("tcp", h.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", manifestURL("latest"))
	all, _ := io.ReadAll(c)
	if !strings.Contains(string(all), "\r\nContent-Length: 9223372036854775808\r\n") {
		t.Errorf("got %s", all)
	}
}

func TestHeaderDelayShowsTheStatusLineFirst(t *testing.T) {
	h := Start(t, Options{Anonymous: true})
	h.Script(Always(&Fault{HeaderDelay: time.Hour}))
	c, err := net.Dial("tcp", h.Host())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestEndless(t *testing.T) {
	h := Start(t, Options{Anonymous: true})
	d := h.AddBlob(repo, []byte("begin"))
	h.Script(Always(&Fault{Endless: true}, OfKind(KindCDN)))
	resp, err := h.Client().Get(h.RegistryURL() + blobURL(d))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 5<<20)
	if _, err := io.ReadFull(resp.Body, b); err != nil || string(b[:5]) != "begin" || resp.ContentLength != -1 {
		t.Errorf("%v, %q", err, b[:5])
	}
}

func TestWrongContentRange(t *testing.T) {
	h := Start(t, Options{Anonymous: true})
	d := h.AddBlob(repo, RandomBlob(1, 100))
	h.Script(Always(&Fault{WrongContentRange: "bytes 0-9/10"}))
	if r := do(t, h, "GET", h.RegistryURL()+blobURL(d), "Range: bytes=50-"); !r.is(206) || r.Header.Get("Content-Range") != "bytes 0-9/10" || len(r.body) != 50 {
		t.Errorf("%v", r)
	}
}

func TestRedirects(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "elsewhere") }))
	defer other.Close()
	h := Start(t, Options{Anonymous: true})
	d := h.AddBlob(repo, []byte("content"))
	for name, c := range map[string]struct {
		fault Fault
		body  string
		hops  int
	}{
		"elsewhere":             {Fault{Redirect: other.URL}, "elsewhere", 0},
		"elsewhere over 3 hops": {Fault{Redirect: other.URL, Hops: 3}, "elsewhere", 3},
		"home over 8 hops":      {Fault{Hops: 8}, "content", 8},
	} {
		h.Reset()
		h.Script(Once(&c.fault, OfKind(KindBlob)))
		r := do(t, h, "GET", h.RegistryURL()+blobURL(d))
		if !r.is(200) || string(r.body) != c.body || h.Count(OfRole(RoleCDN), OfKind(KindOther), OfStatus(307)) != c.hops {
			t.Errorf("%s: %v %q, log %+v", name, r, r.body, h.Log())
		}
	}
	h.Script(Always(&Fault{Redirect: h.RegistryURL() + blobURL(d)}))
	if r := do(t, h, "GET", h.RegistryURL()+blobURL(d)); r.err == nil || !strings.Contains(r.err.Error(), "stopped after 10 redirects") {
		t.Errorf("loop: %v", r)
	}
}

func TestTokenFaults(t *testing.T) {
	h := Start(t, Options{})
	expires := int64(-1)
	h.Script(First(
		OnNth(2, &Fault{Body: bytes.Repeat([]byte("x"), 10<<20)}, OfKind(KindToken)),
		Always(&Fault{ExpiresIn: &expires}, OfKind(KindToken)),
	))
	url := h.TokenURL() + "/token?service=registry.docker.io&scope=repository:library/demo:pull"
	if r := do(t, h, "GET", url); !strings.Contains(string(r.body), `"expires_in":-1,`) {
		t.Errorf("expires_in: %s", r.body)
	}
	if r := do(t, h, "GET", url); !r.is(200) || len(r.body) != 10<<20 {
		t.Errorf("long answer: %v", r)
	}
}

func TestScripts(t *testing.T) {
	f := &Fault{Status: 500}
	for name, c := range map[string]struct {
		script Script
		want   string
	}{
		"once":   {Once(f, OfMethod("GET")), "x---"},
		"times":  {Times(2, f, OfMethod("GET")), "xx--"},
		"nth":    {OnNth(3, f, OfMethod("GET")), "--x-"},
		"always": {Always(f), "xxxx"},
		"other":  {Always(f, OfMethod("PUT")), "----"},
		"first":  {First(OnNth(2, f), OnNth(3, f)), "-x-x"}, // what the first one takes, the second does not count
	} {
		got := ""
		for range 4 {
			if c.script(&Request{Method: "GET"}) != nil {
				got += "x"
			} else {
				got += "-"
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, not %s", name, got, c.want)
		}
	}
}

// TestBandwidth: what is slow ends after what is fast, and all bytes arrive.
// Times depend on the machine and are not checked.
func TestBandwidth(t *testing.T) {
	for name, options := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := Start(t, options)
			h.Set(func(o *Options) { o.Anonymous, o.ConnBandwidth, o.Bandwidth = true, 1<<20, 8<<20 })
			small, large := h.AddBlob(repo, RandomBlob(1, 1<<10)), h.AddBlob(repo, RandomBlob(2, 100<<10))
			var mu sync.Mutex
			var order []int
			var both sync.WaitGroup
			for _, d := range []digest.Digest{large, small} {
				both.Go(func() {
					r := do(t, h, "GET", h.RegistryURL()+blobURL(d))
					if !r.is(200) {
						t.Errorf("got %v", r)
					}
					mu.Lock()
					defer mu.Unlock()
					order = append(order, len(r.body))
				})
			}
			start := time.Now()
			both.Wait()
			t.Logf("%v in %v at 1 MiB/s", order, time.Since(start))
			h.Set(func(o *Options) { o.ConnBandwidth, o.Bandwidth = 0, 0 })
			if r := do(t, h, "GET", h.RegistryURL()+blobURL(large)); !r.is(200) || len(r.body) != 100<<10 {
				t.Errorf("without caps: %v", r)
			}
		})
	}
}

// TestDistant shows that a far hub takes a round trip to connect to, and one for each
// window of a blob.
func TestDistant(t *testing.T) {
	const roundTrip = 20 * time.Millisecond
	h := Start(t, Options{Anonymous: true, DirectBlobs: true, Latency: roundTrip, Distant: true})
	d := h.AddBlob("library/far", RandomBlob(1, 7*firstWindow))          // 1 + 2 + 4 windows
	for i, want := range []time.Duration{4 * roundTrip, 3 * roundTrip} { // the first one makes the connection
		began := time.Now()
		if got := do(t, h, "GET", h.RegistryURL()+"/v2/library/far/blobs/"+d.String()); len(got.body) != 7*firstWindow {
			t.Fatalf("%d bytes", len(got.body))
		}
		if took := time.Since(began); took < want {
			t.Errorf("request %d took %v, want %v at least", i, took, want)
		}
	}
}

// TestPacerArithmetic checks the rate without a clock: the last reservation
// ends when all bytes are sent at the rate.
func TestPacerArithmetic(t *testing.T) {
	var p pacer
	first := p.reserve(1000, 100_000)
	last := first
	for range 99 {
		last = p.reserve(1000, 100_000)
	}
	if got := last.Sub(first); got != 990*time.Millisecond {
		t.Errorf("99,000 bytes at 100 kB/s take %v", got)
	}
	for rate, want := range map[int64]int64{0: fullPiece, 100: 1, 1 << 20: 4194, 1 << 40: maxPiece} {
		var limits []limit
		if rate > 0 {
			limits = []limit{{&p, rate, 1}}
		}
		if got := pieceSize(limits); got != want {
			t.Errorf("pieces at %d bytes/s: %d, not %d", rate, got, want)
		}
	}
}

func TestChangesWhileServing(t *testing.T) {
	h := Start(t, Options{Latency: time.Microsecond})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				tag := fmt.Sprintf("t%d-%d", i, j)
				img := h.Image(repo, tag, RandomBlob(uint64(i), 100))
				get(t, h, manifestURL(tag))
				get(t, h, blobURL(img.Layers[0].Digest))
				h.Set(func(o *Options) { o.RateLimit = 1000 + j })
				h.Script(Once(&Fault{Status: 500}, OfKind(KindTags)))
				h.Log()
				h.BytesSent(img.Layers[0].Digest)
				h.DeleteTag(repo, tag)
			}
		})
	}
	all.Wait()
}

// BenchmarkBlob measures what the hub itself costs.
func BenchmarkBlob(b *testing.B) {
	const size = 64 << 20
	file := filepath.Join(b.TempDir(), "blob")
	if err := os.WriteFile(file, RandomBlob(1, size), 0o600); err != nil {
		b.Fatal(err)
	}
	for name, cap := range map[string]int64{"uncapped": 0, "100 MB a second": 100_000_000} {
		b.Run(name, func(b *testing.B) {
			h := Start(b, Options{Anonymous: true, ConnBandwidth: cap})
			d, err := h.AddBlobFile(repo, file)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			for b.Loop() {
				resp, err := h.Client().Get(h.RegistryURL() + blobURL(d))
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
					b.Fatal(n, err)
				}
				resp.Body.Close()
			}
		})
	}
}
