package tier

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) {
	testkit.VerifyMain(m)
}

const kib = 1 << 10

// TestReadAndWrite has a blob written once, in one request or in parts, and read in
// whole and in parts.
func TestReadAndWrite(t *testing.T) {
	r := newRig(t, newFake(t), func(_ *Options, b *bounds) { b.single, b.part = 64*kib, 16*kib }).run()
	for _, size := range []int{0, 1, 64 * kib, 64*kib + 1, 200 * kib} {
		body, d := r.blob(size)
		r.Keep(d)
		r.eventually("it is stored", func() bool { return r.count("writes_total", "result", "stored") > 0 && r.fake.object(d) != nil })
		if !bytes.Equal(r.fake.object(d), body) {
			t.Errorf("%d bytes: the object has %d", size, len(r.fake.object(d)))
		}
		got, err := r.read(r.Blob(d, int64(size)), 0, -1)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: %d read, %v", size, len(got), err)
		}
		if size > kib {
			if got, err = r.read(r.Blob(d, -1), kib, 3); err != nil || !bytes.Equal(got, body[kib:kib+3]) {
				t.Errorf("%d bytes: a part is %q, %v", size, got, err)
			}
		}
		r.Keep(d)
	}
	r.eventually("all are present", func() bool { return r.count("writes_total", "result", "present") == 5 })
	if n := r.count("writes_total", "result", "stored"); n != 5 {
		t.Errorf("%d are stored", n)
	}
	if n := r.count("bytes_total", "direction", "sent"); n != 1+64*kib+64*kib+1+200*kib {
		t.Errorf("%d bytes are sent", n)
	}
	if s := r.Status(); s.Open || s.WriteFailure != "" || s.Queue != 0 {
		t.Errorf("%+v", s)
	}
	if r.fake.Count("DELETE") != 0 {
		t.Error("something was deleted")
	}
}

// TestAbsent: what the bucket does not have is no failure, and is asked for once by a
// fill.
func TestAbsent(t *testing.T) {
	r := newRig(t, newFake(t), nil)
	_, d := r.blob(kib)
	for range 2 * tripAfter {
		near := r.Blob(d, kib)
		if _, err := r.read(near, 0, -1); !errors.Is(err, errAbsent) {
			t.Error(err)
		}
		if len(near.Places()) != 0 {
			t.Error("it is asked for again")
		}
	}
	r.fake.put(d, []byte("short"))
	if _, err := r.read(r.Blob(d, -1), 100, 5); !errors.Is(err, errAbsent) {
		t.Error("beyond the end:", err)
	}
	if r.Status().Open {
		t.Error("the circuit is open")
	}
}

// TestDialects: a server that does not know conditions is asked first, one that answers
// 409 has the object.
func TestDialects(t *testing.T) {
	f := newFake(t)
	r := newRig(t, f, nil).run()
	f.Fault(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Header.Get("If-None-Match") != "" {
			testkit.RefuseS3(w, http.StatusConflict, "ConditionalRequestConflict")
			return true
		}
		return false
	})
	_, first := r.blob(kib)
	r.Keep(first)
	r.eventually("409 is present", func() bool { return r.count("writes_total", "result", "present") == 1 })
	f.Fault(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Header.Get("If-None-Match") != "" {
			testkit.RefuseS3(w, http.StatusNotImplemented, "NotImplemented")
			return true
		}
		return false
	})
	for i := range 3 {
		_, d := r.blob(kib + i)
		r.Keep(d)
		r.eventually("it is stored", func() bool { return r.count("writes_total", "result", "stored") == i+1 })
		r.Keep(d)
		r.eventually("it is present", func() bool { return r.count("writes_total", "result", "present") == i+2 })
	}
	if n := f.Count("HEAD"); n != 6 {
		t.Errorf("%d HEADs, want 6", n)
	}
	if s := r.Status(); s.WriteFailure != "" {
		t.Error(s.WriteFailure)
	}
}

// TestUnsignedOverTLS: what TLS protects is not hashed, and without TLS a body's hash is
// its digest.
func TestUnsignedOverTLS(t *testing.T) {
	for _, secure := range []bool{false, true} {
		f := newFake(t)
		var hash string
		f.Fault(func(_ http.ResponseWriter, q *http.Request) bool {
			if q.Method == http.MethodPut {
				hash = q.Header.Get("X-Amz-Content-Sha256")
			}
			return false
		})
		r := newRig(t, f, func(o *Options, _ *bounds) {
			if secure {
				tls := httptest.NewTLSServer(f)
				t.Cleanup(tls.Close)
				pool := x509.NewCertPool()
				pool.AddCert(tls.Certificate())
				o.RootCAs = func() *x509.CertPool { return pool }
				o.URL, _ = url.Parse(tls.URL + "/bucket")
			}
		}).run()
		_, d := r.blob(kib)
		r.Keep(d)
		r.eventually("it is stored", func() bool { return r.count("writes_total", "result", "stored") == 1 })
		if want := map[bool]string{false: d.Encoded(), true: "UNSIGNED-PAYLOAD"}[secure]; hash != want {
			t.Errorf("TLS %v: the hash is %s, want %s", secure, hash, want)
		}
	}
}

// TestFailures has each way to fail open the circuit, with one clear line, and close it
// once the bucket works again.
func TestFailures(t *testing.T) {
	answer := func(status int, code string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { testkit.RefuseS3(w, status, code); return true }
	}
	silent := func(_ http.ResponseWriter, q *http.Request) bool { <-q.Context().Done(); return true }
	for _, tc := range []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request) bool
		after int // failures
		says  string
	}{
		{"no bucket", answer(404, "NoSuchBucket"), 1, "the bucket does not exist"},
		{"no S3 here", func(w http.ResponseWriter, q *http.Request) bool { http.NotFound(w, q); return true }, 1, "it answers 404"},
		{"denied", answer(403, "AccessDenied"), 1, "it denies access"},
		{"wrong key", answer(403, "InvalidAccessKeyId"), 1, "HUBCAP_S3_ACCESS_KEY"},
		{"wrong secret", answer(403, "SignatureDoesNotMatch"), 1, "HUBCAP_S3_SECRET_KEY"},
		{"region", answer(400, "AuthorizationHeaderMalformed"), 1, "HUBCAP_S3_REGION"},
		{"redirect", answer(301, "PermanentRedirect"), 1, "HUBCAP_S3_URL"},
		{"busy", answer(503, "SlowDown"), 3, "it has too much to do (503 SlowDown)"},
		{"broken", answer(500, "InternalError"), 3, "it answers 500 InternalError"},
		{"silent", silent, 1, "it does not answer"},
		{"no S3", func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, "<html>a balancer's page")
			return true
		}, 3, "it answers 502"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) bool { panic(http.ErrAbortHandler) }, 3, "connection"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			r := newRig(t, f, func(_ *Options, b *bounds) {
				if tc.name == "silent" {
					b.header = 2 * time.Second
				}
			}).run()
			body, d := r.blob(kib)
			f.put(d, body)
			r.eventually("the first look", func() bool { return strings.Contains(r.log.String(), "S3 tier") })
			f.Fault(tc.fault)
			for range tc.after {
				if r.Status().Open {
					t.Error("it opens early")
				}
				if _, err := r.read(r.Blob(d, kib), 0, -1); err == nil {
					t.Error("a read succeeds")
				}
			}
			s := r.Status()
			if !s.Open || !strings.Contains(s.Why, tc.says) || strings.Contains(s.Why, "\n") {
				t.Errorf("open %v, %q; want %q", s.Open, s.Why, tc.says)
			}
			if len(r.Blob(d, kib).Places()) != 0 {
				t.Error("the bucket is asked")
			}
			f.Fault(nil)
			r.eventually("it is asked again", func() bool { return !r.Status().Open })
			if got, err := r.read(r.Blob(d, kib), 0, -1); err != nil || !bytes.Equal(got, body) {
				t.Error(len(got), err)
			}
			if n := strings.Count(r.log.String(), "is not asked for a while"); n != 1 {
				t.Errorf("%d lines:\n%s", n, r.log)
			}
		})
	}
}

// TestUnreachable: nobody listens.
func TestUnreachable(t *testing.T) {
	f := newFake(t)
	r := newRig(t, f, nil)
	f.Close()
	_, d := r.blob(kib)
	if _, err := r.read(r.Blob(d, kib), 0, -1); err == nil || !r.Status().Open || !strings.Contains(r.Status().Why, "connection refused") {
		t.Errorf("%v, %+v", err, r.Status())
	}
}

// TestKeysOfTheEnvironment: without keys those of the AWS SDK are used, and without
// these there is a clear line.
func TestKeysOfTheEnvironment(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	authority := httptest.NewTLSServer(nil)
	authority.Close()
	bundle := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", bundle)
	for _, one := range []string{"", "of the environment"} {
		t.Setenv("AWS_ACCESS_KEY_ID", one)
		t.Setenv("AWS_SECRET_ACCESS_KEY", one)
		f := newFake(t)
		r := newRig(t, f, func(o *Options, _ *bounds) { o.AccessKey, o.SecretKey = "", "" })
		body, d := r.blob(kib)
		f.put(d, body)
		got, err := r.read(r.Blob(d, kib), 0, -1)
		if one == "" && (err == nil || !strings.Contains(r.Status().Why, "no keys: set HUBCAP_S3_ACCESS_KEY")) {
			t.Errorf("%v, %+v", err, r.Status())
		}
		if one != "" && !bytes.Equal(got, body) {
			t.Error(err)
		}
	}
}

// TestBodies has transfers that break off, stall and drip end soon, and the fill ask
// somewhere else.
func TestBodies(t *testing.T) {
	for _, tc := range []struct {
		name   string
		stall  time.Duration
		body   func(w http.ResponseWriter, q *http.Request)
		says   string
		breaks int
	}{
		{"cut", testkit.Patience, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "breaks off", 2},
		{"stalled", time.Second / 2, func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }, "nothing any more", 1},
		{"dripping", 2 * time.Second, func(w http.ResponseWriter, q *http.Request) {
			for tick := time.NewTicker(50 * time.Millisecond); q.Context().Err() == nil; <-tick.C {
				_, _ = w.Write([]byte("drip"))
				_ = http.NewResponseController(w).Flush()
			}
		}, "too slow", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			r := newRig(t, f, func(_ *Options, b *bounds) { b.stall = tc.stall })
			body, d := r.blob(100 * kib)
			f.Fault(func(w http.ResponseWriter, q *http.Request) bool {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				_, _ = w.Write(body[:50*kib/100])
				_ = http.NewResponseController(w).Flush()
				tc.body(w, q)
				return true
			})
			near := r.Blob(d, int64(len(body)))
			for i := range tc.breaks {
				if len(near.Places()) == 0 {
					t.Fatalf("it is left after %d", i)
				}
				if _, err := r.read(near, 0, -1); err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%v, want %q", err, tc.says)
				}
			}
			if len(near.Places()) != 0 {
				t.Error("it is not left")
			}
			if r.Status().Open {
				t.Error("one object has opened the circuit")
			}
		})
	}
}

// TestWrongContent: an object that is not what its key says is read no more until it is
// overwritten, and the bucket rests.
func TestWrongContent(t *testing.T) {
	f := newFake(t)
	clock := testkit.NewClock(time.Now())
	r := newRig(t, f, func(o *Options, _ *bounds) { o.Now = clock.Now }).run()
	body, d := r.blob(kib)
	right, other := r.blob(2 * kib)
	f.put(other, right)
	f.put(d, bytes.Repeat([]byte("x"), kib))
	r.Blob(d, kib).Places()[0].Wrong() // as the cache says
	f.put(d, []byte("of another length"))
	if len(r.Blob(other, -1).Places()) != 0 {
		t.Error("the bucket does not rest")
	}
	clock.Advance(r.bounds.wrong)
	if got, err := r.read(r.Blob(other, -1), 0, -1); err != nil || !bytes.Equal(got, right) {
		t.Error(len(got), err)
	}
	if len(r.Blob(d, kib).Places()) != 0 {
		t.Error("the wrong object is read again")
	}
	r.Keep(d)
	r.eventually("it is overwritten", func() bool { return bytes.Equal(f.object(d), body) })
	r.eventually("it is counted", func() bool { return r.count("writes_total", "result", "stored") == 1 })
	if got, err := r.read(r.Blob(d, kib), 0, -1); err != nil || !bytes.Equal(got, body) {
		t.Error(len(got), err)
	}
	if s := r.Status(); s.Wrong != d || r.count("reads_total", "result", "wrong") != 1 {
		t.Errorf("%+v", s)
	}
	f.Fault(func(w http.ResponseWriter, q *http.Request) bool { // as S3 answers for an empty object
		if q.Method == http.MethodGet {
			testkit.RefuseS3(w, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
		}
		return q.Method == http.MethodGet
	})
	if _, err := r.read(r.Blob(d, -1), 0, kib); !errors.Is(err, errAbsent) {
		t.Error("an empty object:", err)
	}
	f.Fault(nil)
	f.put(d, nil)
	r.Keep(d)
	r.eventually("it is overwritten", func() bool { return bytes.Equal(f.object(d), body) })
}

// TestWrongLength: an object of another length than a manifest says is not read for that
// manifest. If it is the object that is wrong, it is overwritten; a manifest that is wrong
// harms nobody else.
func TestWrongLength(t *testing.T) {
	f := newFake(t)
	r := newRig(t, f, nil).run()
	body, d := r.blob(kib)
	other, o := r.blob(2 * kib)
	f.put(o, other)
	for i, one := range []struct {
		object   []byte
		manifest int64
		end      string
	}{{[]byte("short"), kib, "stored"}, {body, kib + 1, "present"}} {
		f.put(d, one.object)
		near := r.Blob(d, one.manifest)
		if _, err := r.read(near, 0, -1); err == nil || len(near.Places()) != 0 {
			t.Error(i, err)
		}
		if got, err := r.read(r.Blob(o, -1), 0, -1); err != nil || !bytes.Equal(got, other) {
			t.Error(i, "another blob:", err)
		}
		r.Keep(d)
		r.eventually("it is "+one.end, func() bool { return r.count("writes_total", "result", one.end) == 1 })
		if got, err := r.read(r.Blob(d, kib), 0, -1); err != nil || !bytes.Equal(got, body) {
			t.Error(i, len(got), err)
		}
	}
}

// TestFullBucket: writes fail and are given up after a few tries, and reads go on.
func TestFullBucket(t *testing.T) {
	f := newFake(t)
	r := newRig(t, f, func(_ *Options, b *bounds) { b.single, b.part = 64*kib, 16*kib }).run()
	body, held := r.blob(kib)
	f.put(held, body)
	f.Fault(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPut {
			testkit.RefuseS3(w, http.StatusForbidden, "QuotaExceeded")
			return true
		}
		return false
	})
	for i, size := range []int{kib + 1, 65 * kib} {
		_, d := r.blob(size)
		r.Keep(d)
		r.eventually("it is given up", func() bool { return r.count("writes_total", "result", "failed") == i+1 })
	}
	s := r.Status()
	if s.Open || !strings.Contains(s.WriteFailure, "it is full") || s.WriteSince.IsZero() {
		t.Errorf("%+v", s)
	}
	if n := f.Count("DELETE"); n != maxTries {
		t.Errorf("%d uploads are given up, want %d", n, maxTries)
	}
	if got, err := r.read(r.Blob(held, kib), 0, -1); err != nil || !bytes.Equal(got, body) {
		t.Error(len(got), err)
	}
	f.Fault(nil)
	_, d := r.blob(kib + 2)
	r.Keep(d)
	r.eventually("it is stored", func() bool { return f.object(d) != nil && r.Status().WriteFailure == "" })
}

// TestQueue: what is too much is dropped and counted, and nothing waits; a read-only
// tier writes nothing.
func TestQueue(t *testing.T) {
	r := newRig(t, newFake(t), nil) // nobody writes
	_, d := r.blob(kib)
	for range queued + 10 {
		r.Keep(d)
	}
	if n := r.count("writes_total", "result", "dropped"); n != 10 || r.Status().Queue != queued {
		t.Errorf("%d are dropped, %d wait", n, r.Status().Queue)
	}
	f := newFake(t)
	reads := newRig(t, f, func(o *Options, _ *bounds) { o.ReadOnly = true }).run()
	body, d := reads.blob(kib)
	f.put(d, body)
	reads.Keep(d)
	if got, err := reads.read(reads.Blob(d, -1), 0, -1); err != nil || !bytes.Equal(got, body) {
		t.Error(len(got), err)
	}
	if reads.Status().Queue != 0 || f.Count("PUT")+f.Count("HEAD")+f.Count("POST") != 0 {
		t.Error("it writes")
	}
}

// TestWritesWaitForTheBucket: while the bucket fails, what waits is kept.
func TestWritesWaitForTheBucket(t *testing.T) {
	f := newFake(t)
	f.Fault(func(w http.ResponseWriter, _ *http.Request) bool {
		testkit.RefuseS3(w, 403, "AccessDenied")
		return true
	})
	r := newRig(t, f, nil).run()
	r.eventually("the first look fails", func() bool { return r.Status().Open })
	var last []byte
	for i := range 5 {
		body, d := r.blob(kib + i)
		r.Keep(d)
		last = body
	}
	if f.Count("PUT") != 0 {
		t.Error("a bucket that fails is written to")
	}
	f.Fault(nil)
	r.eventually("all are stored", func() bool { return r.count("writes_total", "result", "stored") == 5 })
	if r.count("writes_total", "result", "failed") != 0 || len(last) == 0 {
		t.Error("some failed")
	}
}

// TestAskerLeaves: a client that leaves is no failure of the bucket.
func TestAskerLeaves(t *testing.T) {
	f := newFake(t)
	r := newRig(t, f, nil)
	body, d := r.blob(kib)
	f.put(d, body)
	for range 2 * tripAfter {
		near := r.Blob(d, kib)
		stream, err := near.Places()[0].Open(t.Context(), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream.Body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		stream.Body.Close()
	}
	if s := r.Status(); s.Open || r.count("reads_total", "result", "failed") != 0 {
		t.Errorf("%+v", s)
	}
}
