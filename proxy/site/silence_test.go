package site

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/upstream/network"
)

// piped returns a Site of this box and one other, whose connections are pipes to what
// serve does. It is for a synctest bubble.
func piped(t *testing.T, serve func(c net.Conn)) (*Site, *box) {
	one, other := nameOf(0, false), nameOf(1, false)
	s := New(options(func(o *Options) { o.Boxes = []*url.URL{one, other} }))
	s.dialBy(func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go serve(far)
		return near, nil
	})
	t.Cleanup(s.Close)
	return s, s.boxes[1]
}

// dialBy has a Site connect by dial.
func (s *Site) dialBy(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	s.http.Transport = network.NewTransport(s.o.RootCAs, func(roots *x509.CertPool) *http.Transport {
		t := s.o.newTransport(roots)
		t.DialContext = dial
		return t
	})
}

// swallow reads all, and never answers.
func swallow(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// TestFarSister: a sister's time counts from when it is connected; one that takes longer,
// or cannot be connected, is not asked for a minute.
func TestFarSister(t *testing.T) {
	const connects, within = 700 * time.Millisecond, 300 * time.Millisecond
	for name, tc := range map[string]struct {
		answers time.Duration // after the connection
		dial    error
		want    error
		took    time.Duration
	}{
		"in time":     {200 * time.Millisecond, nil, nil, connects + 200*time.Millisecond},
		"too late":    {400 * time.Millisecond, nil, errSlow, connects + within},
		"unreachable": {0, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded, connects},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				far := nameOf(1, false)
				s := New(options(func(o *Options) { o.Sisters, o.SisterTime = []*url.URL{far}, within }))
				t.Cleanup(s.Close)
				s.dialBy(func(context.Context, string, string) (net.Conn, error) {
					time.Sleep(connects)
					if tc.dial != nil {
						return nil, tc.dial
					}
					near, far := net.Pipe()
					go func() {
						_, _ = far.Read(make([]byte, 4096))
						time.Sleep(tc.answers)
						_, _ = io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
						far.Close()
					}()
					return near, nil
				})
				begun := time.Now()
				stream, err := source{near{site: s, host: "docker.io", name: "library/demo", digest: digest.FromString("x"), sisters: true}, s.sisters[0]}.Open(t.Context(), 0, -1)
				if !errors.Is(err, tc.want) {
					t.Fatalf("%v, want %v", err, tc.want)
				}
				if took := time.Since(begun); took != tc.took {
					t.Errorf("it took %s, want %s", took, tc.took)
				}
				if err == nil {
					stream.Body.Close()
					return
				}
				time.Sleep(59 * time.Second)
				if n := len(s.awake(s.sisters)); n != 0 {
					t.Errorf("%d sisters are asked", n)
				}
				time.Sleep(2 * time.Second)
				if n := len(s.awake(s.sisters)); n != 1 {
					t.Errorf("%d sisters are asked after a minute", n)
				}
			})
		})
	}
}

// TestSilentBox: a box that accepts and answers nothing is asked whether it lives, and
// rests.
func TestSilentBox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := piped(t, swallow)
		begun := time.Now()
		_, err := s.ask(t.Context(), b, question{host: "docker.io", path: "library/demo/blobs/x"})
		if !errors.Is(err, errDead) {
			t.Errorf("%v, want errDead", err)
		}
		if took := time.Since(begun); took != askAfter+boxTime {
			t.Errorf("it took %s", took)
		}
		if !b.rests(time.Now()) || s.Status()[1].Why != errDead.Error() {
			t.Errorf("it does not rest: %+v", s.Status())
		}
		time.Sleep(restFailed + time.Second)
		if b.rests(time.Now()) {
			t.Error("it rests for good")
		}
		synctest.Wait()
	})
}

// TestSilentInMidBody: the same for one that ends in mid-transfer, as a stopped process
// does.
func TestSilentInMidBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := piped(t, func(c net.Conn) {
			buf := make([]byte, 4096)
			n, _ := c.Read(buf)
			if !bytes.Contains(buf[:n], []byte("/livez")) {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			}
			swallow(c)
		})
		stream, err := s.open(t.Context(), b, question{host: "docker.io", path: "library/demo/blobs/x"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(stream.Body)
		if string(got) != "half" || !errors.Is(err, errDead) || !b.rests(time.Now()) {
			t.Errorf("%q, %v", got, err)
		}
		stream.Body.Close()
		synctest.Wait()
	})
}

// TestLivingBoxIsWaitedFor: a box that sends nothing because its registry does, and that
// answers /livez, may take its time.
func TestLivingBoxIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := piped(t, func(c net.Conn) {
			buf := make([]byte, 4096)
			n, err := c.Read(buf)
			if err != nil { // a connection that was not needed
				return
			}
			answer := "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
			if !bytes.Contains(buf[:n], []byte("/livez")) {
				time.Sleep(30 * time.Second)
			}
			_, _ = io.WriteString(c, answer)
			_ = c.Close()
		})
		resp, err := s.ask(t.Context(), b, question{host: "docker.io", path: "library/demo/blobs/x"})
		if err != nil {
			t.Error(err)
		} else {
			resp.Body.Close()
		}
		if b.rests(time.Now()) {
			t.Error("it rests")
		}
		synctest.Wait()
	})
}

// TestDrippingBox: a box that sends a byte now and then is left, one that is slow is not.
func TestDrippingBox(t *testing.T) {
	for name, tc := range map[string]struct {
		piece int // bytes a second
		err   error
	}{"drips": {1, errDrips}, "slow": {8 << 10, nil}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const pieces = 100
				s, b := piped(t, func(c net.Conn) {
					buf := make([]byte, 4096)
					if _, err := c.Read(buf); err != nil {
						return
					}
					_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", pieces*tc.piece)
					for range pieces {
						time.Sleep(time.Second)
						if _, err := c.Write(make([]byte, tc.piece)); err != nil {
							return
						}
					}
					_ = c.Close()
				})
				begun := time.Now()
				stream, err := s.open(t.Context(), b, question{host: "docker.io", path: "x"})
				if err != nil {
					t.Fatal(err)
				}
				if _, err = io.ReadAll(stream.Body); !errors.Is(err, tc.err) || b.rests(time.Now()) != (tc.err != nil) {
					t.Errorf("%v after %s", err, time.Since(begun))
				}
				stream.Body.Close()
				time.Sleep(2 * time.Second) // until the box sees it
				synctest.Wait()
			})
		})
	}
}

// TestAskerWhoLeaves is no failure of the box.
func TestAskerWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := piped(t, swallow)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.ask(ctx, b, question{host: "docker.io", path: "x"}); err == nil || b.rests(time.Now()) {
			t.Errorf("%v, %v", err, b.rests(time.Now()))
		}
		synctest.Wait()
	})
}

// TestSlowToSayWhatItHolds: who should only look is given a second, and the client no
// longer.
func TestSlowToSayWhatItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := piped(t, swallow)
		begun := time.Now()
		if _, err := s.HeldSize(t.Context(), "docker.io", "library/demo", digest.FromString("x")); !errors.Is(err, ErrNone) {
			t.Error(err)
		}
		if took := time.Since(begun); took != boxTime || !b.rests(time.Now()) {
			t.Errorf("it took %s, rests %v", took, b.rests(time.Now()))
		}
		synctest.Wait()
	})
}

// TestBoxAnswersAgain: a box that failed is logged twice in all, however often it is
// asked meanwhile.
func TestBoxAnswersAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := piped(t, func(c net.Conn) {
			buf := make([]byte, 4096)
			_, _ = c.Read(buf)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nVia: 1.1 hubcap-other (site x)\r\nContent-Length: 0\r\n\r\n")
			_ = c.Close()
		})
		news := 0
		for range 5 {
			if s.failed(b, restFailed, errDead) {
				news++
			}
			time.Sleep(restFailed)
		}
		if news != 1 || s.Status()[1].Since.IsZero() {
			t.Errorf("%d times news, %+v", news, s.Status())
		}
		time.Sleep(restFailed)
		s.Look(t.Context())
		if got := s.Status()[1]; !got.Since.IsZero() || !strings.Contains(got.Wrong, "another HUBCAP_SITE") {
			t.Errorf("%+v", got)
		}
		synctest.Wait()
	})
}

// TestLook: boxes are found to be foreign, this one or each other under other names.
func TestLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := []*url.URL{nameOf(0, false), nameOf(0, true), nameOf(1, false), nameOf(1, true), nameOf(2, false), nameOf(3, false)}
		s := New(options(func(o *Options) { o.Boxes = list }))
		t.Cleanup(s.Close)
		s.dialBy(func(_ context.Context, _, address string) (net.Conn, error) {
			id, status := map[string]string{
				"also-0:5000": s.id, "hubcap-1:5000": "hubcap-b", "also-1:5000": "hubcap-b", "hubcap-2:5000": "",
			}[address], "200 OK"
			if address == "hubcap-3:5000" {
				status = "403 Forbidden"
			}
			near, far := net.Pipe()
			go func() {
				buf := make([]byte, 4096)
				_, _ = far.Read(buf)
				_, _ = io.WriteString(far, "HTTP/1.1 "+status+"\r\nConnection: close\r\nContent-Length: 0\r\n")
				if id != "" {
					_, _ = io.WriteString(far, "Via: 1.1 "+id+" (site "+s.list+")\r\n")
				}
				_, _ = io.WriteString(far, "\r\n")
				_ = far.Close()
			}()
			return near, nil
		})
		s.Look(t.Context())
		var got []string
		for _, one := range s.Status() {
			got = append(got, one.Wrong+one.Why)
		}
		want := []string{
			"", "http://also-0:5000 is this box under another name", "", "http://also-1:5000 is http://hubcap-1:5000 under another name",
			"http://hubcap-2:5000 is no hubcap of this site: it does not say which boxes it knows",
			"it answers 403 Forbidden: its HUBCAP_ALLOW_CLIENTS does not have this box",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		synctest.Wait()
	})
}

// TestFromBox: who asks is told by Via, whatever else it says.
func TestFromBox(t *testing.T) {
	s := New(options(func(*Options) {}))
	for via, want := range map[string]bool{"": false, "1.1 proxy": false, "1.1 hubcap-x": true, "1.0 a, 1.1 hubcap-x (site y)": true} {
		if got, err := s.FromBox(http.Header{"Via": {via}}); got != want || err != nil {
			t.Errorf("%q: %v, %v", via, got, err)
		}
	}
	if _, err := s.FromBox(http.Header{"Via": {"1.1 proxy, " + s.Via()}}); !errors.Is(err, ErrSelf) {
		t.Errorf("its own: %v", err)
	}
}
