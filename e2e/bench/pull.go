package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// puller pulls as a container runtime does: over connections of its own, and
// with a token when it is asked for one.
type puller struct {
	base   string
	client *http.Client
	token  string
}

func newPuller(base string) *puller {
	return &puller{base: base, client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: anyCertificate(), DisableCompression: true, MaxIdleConnsPerHost: 16, WriteBufferSize: 4 << 10, ReadBufferSize: 64 << 10},
	}}
}

func (p *puller) close() { p.client.CloseIdleConnections() }

// get asks for what is below /v2/, meeting a challenge once.
func (p *puller) get(path string, header ...string) (*http.Response, error) {
	for tries := 0; ; tries++ {
		req, err := http.NewRequest(http.MethodGet, p.base+"/v2/"+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", ocispec.MediaTypeImageManifest+", */*")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		if p.token != "" {
			req.Header.Set("Authorization", "Bearer "+p.token)
		}
		resp, err := p.client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
			return resp, nil
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || tries > 0 {
			return nil, fmt.Errorf("%s: %s", path, resp.Status)
		}
		if p.token, err = p.fetchToken(resp.Header.Get("WWW-Authenticate")); err != nil {
			return nil, err
		}
	}
}

// fetchToken meets a challenge of the hub, whose form is known.
func (p *puller) fetchToken(challenge string) (string, error) {
	values := url.Values{}
	for _, one := range strings.Split(strings.TrimPrefix(challenge, "Bearer "), ",") {
		name, value, _ := strings.Cut(one, "=")
		values.Set(name, strings.Trim(value, `"`))
	}
	realm := values.Get("realm")
	values.Del("realm")
	resp, err := p.client.Get(realm + "?" + values.Encode())
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"token"`
	}
	return answer.Token, json.NewDecoder(resp.Body).Decode(&answer)
}

// manifest pulls a manifest by its tag.
func (p *puller) manifest(repository, tag string) (m ocispec.Manifest, err error) {
	resp, err := p.get(repository + "/manifests/" + tag)
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	return m, json.NewDecoder(resp.Body).Decode(&m)
}

// blob pulls a blob, checks it, and tells when its first byte came.
func (p *puller) blob(repository string, d digest.Digest) (first time.Time, err error) {
	resp, err := p.get(repository + "/blobs/" + d.String())
	if err != nil {
		return first, err
	}
	defer resp.Body.Close()
	check := d.Verifier()
	buf := make([]byte, 64<<10)
	n, err := io.ReadAtLeast(resp.Body, buf, 1)
	if err != nil {
		return first, err
	}
	first = time.Now()
	_, _ = check.Write(buf[:n])
	if _, err := io.CopyBuffer(struct{ io.Writer }{check}, struct{ io.Reader }{resp.Body}, buf); err != nil {
		return first, err
	}
	if !check.Verified() {
		return first, errCorrupt
	}
	return first, nil
}

var errCorrupt = errors.New("a whole body that does not hash to its digest")

// piece pulls n bytes of a blob from off, and compares them.
func (p *puller) piece(repository string, d digest.Digest, off int64, want []byte) error {
	resp, err := p.get(repository+"/blobs/"+d.String(), "Range", fmt.Sprintf("bytes=%d-%d", off, off+int64(len(want))-1))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK { // ranges are not known here
		if _, err := io.CopyN(io.Discard, resp.Body, off); err != nil {
			return err
		}
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(resp.Body, got); err != nil {
		return err
	}
	if string(got) != string(want) {
		return errCorrupt
	}
	return nil
}

// raw is a client that costs as little as a client can: one connection, one
// request line, the body read into one buffer.
type raw struct {
	conn net.Conn
	in   *bufio.Reader
	line []byte
	buf  []byte

	headers func() // called by drop when those of an answer are there; nil for nobody
}

// Sizes of a raw client's buffers.
const (
	largeBuffer = 256 << 10
	smallBuffer = 4 << 10
)

// dialer makes raw clients of one path.
type dialer func() (*raw, error)

// dialer makes clients that speak TLS if the contender does.
func (c *contender) dialer(path string, buffer int) dialer {
	return c.dialerOver(anyCertificate(), path, buffer)
}

func (c *contender) dialerOver(config *tls.Config, path string, buffer int) dialer {
	scheme, host, _ := strings.Cut(c.url, "://")
	return func() (*raw, error) {
		conn, err := net.Dial("tcp", host)
		if err == nil && scheme == "https" {
			conn, err = secure(&buffered{conn, bufio.NewReaderSize(conn, buffer)}, config)
		}
		if err != nil {
			return nil, err
		}
		return newRaw(conn, host, path, buffer), nil
	}
}

func newRaw(conn net.Conn, host, path string, buffer int) *raw {
	return &raw{
		conn: conn, in: bufio.NewReaderSize(conn, buffer), buf: make([]byte, buffer),
		line: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\nAccept: %s\r\n\r\n", path, host, ocispec.MediaTypeImageManifest),
	}
}

// get sends the request and reads the answer; it returns the body's length.
func (c *raw) get() (int64, error) {
	if _, err := c.conn.Write(c.line); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New(resp.Status)
	}
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, c.buf)
}

// load sends requests over so many connections at a time, on each of them perConnection
// and then over a new one. It returns the bytes of all bodies.
func load(dial dialer, connections, requests, perConnection int) (int64, error) {
	var bytes atomic.Int64
	err := together(connections, func(int) error {
		for range requests / connections / perConnection {
			c, err := dial()
			if err != nil {
				return err
			}
			n, err := c.getEach(perConnection)
			bytes.Add(n)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return bytes.Load(), err
}

// getEach sends n requests, closes the connection, and returns the bytes of all bodies.
func (c *raw) getEach(n int) (bytes int64, err error) {
	defer c.conn.Close()
	for range n {
		m, err := c.get()
		bytes += m
		if err != nil {
			return bytes, err
		}
	}
	return bytes, nil
}

// together calls f n times at once.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}
