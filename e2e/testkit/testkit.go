// Package testkit holds what the tests of many rooms share: a clock that only
// the test moves, a log that can be read while it is written, the key of an
// account that nobody has, certificates. It knows no room.
package testkit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// Clock is a time that only the test moves. Its methods may be called at any
// time by anyone.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at a moment.
func NewClock(at time.Time) *Clock { return &Clock{now: at} }

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock, forwards or back.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Log is a log that can be read while it is written. The zero Log is empty.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String is what was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Bytes is String as bytes of the caller's own.
func (l *Log) Bytes() []byte { return []byte(l.String()) }

// CopyDir copies a directory with the holes of its files, of which Badger's are
// mostly made, to one that is not there or is empty.
func CopyDir(to, from string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	out, err := exec.CommandContext(context.Background(), "cp", "-a", from+"/.", to).CombinedOutput() //nolint:gosec // directories of the tests
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// FreePort returns a port of loopback at which nothing listened a moment ago.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// ServiceAccount is the key file of a Google account whose tokens come from the
// address tokens.
func ServiceAccount(tokens string) (string, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	content, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "box@example.test", "token_uri": tokens,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})),
	})
	return string(content), err
}
