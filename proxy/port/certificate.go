package port

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// lookEvery is how often the files are looked at, at most: at handshakes only.
const lookEvery = time.Second

// certificate is one that is read again when its files change. Connections that
// stand keep what they were made with.
type certificate struct {
	Options

	mu      sync.Mutex
	current *tls.Certificate
	seen    stamp // of the files that were last read, whatever came of it
	looked  time.Time
	failure error // why the files could not be used when they last changed
}

// stamp is what the two files look like from outside.
type stamp [2]struct {
	time time.Time
	size int64
}

// loadCertificate reads a certificate for the first time.
func loadCertificate(o Options) (*certificate, error) {
	c := &certificate{Options: o}
	c.seen, _ = c.stamp()
	read, err := readCertificate(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	c.current, c.looked = read, c.Now()
	c.Metrics.Certificate(c.Name, true, read.Leaf.NotAfter)
	if c.Now().After(read.Leaf.NotAfter) {
		c.Log.Warn("the certificate has expired: clients will refuse it", "port", c.Name, "file", c.CertFile, "expired", read.Leaf.NotAfter)
	}
	return c, nil
}

func readCertificate(certFile, keyFile string) (*tls.Certificate, error) {
	read, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", certFile, keyFile, err)
	}
	return &read, nil
}

func (c *certificate) stamp() (s stamp, err error) {
	for i, name := range []string{c.CertFile, c.KeyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return stamp{}, err
		}
		s[i].time, s[i].size = info.ModTime(), info.Size()
	}
	return s, nil
}

// get implements tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.Now(); now.Sub(c.looked) >= lookEvery {
		c.looked = now
		c.reload()
	}
	return c.current, nil
}

// reload reads files that have changed. If that fails, the certificate in use
// stays: the two files are rarely written at the same moment, and are read again
// at their next change. c.mu is held.
func (c *certificate) reload() {
	now, err := c.stamp()
	if err == nil && now == c.seen {
		return
	}
	if err != nil && c.seen == (stamp{}) {
		return // that was told
	}
	c.seen = now
	read, err := readCertificate(c.CertFile, c.KeyFile)
	c.failure = err
	if err != nil {
		c.Metrics.Certificate(c.Name, false, c.current.Leaf.NotAfter)
		c.Log.Warn("a new certificate cannot be used; the current one stays", "port", c.Name, "err", err)
		return
	}
	c.current = read
	c.Metrics.Certificate(c.Name, true, read.Leaf.NotAfter)
	c.Log.Info("a new certificate is in use", "port", c.Name, "file", c.CertFile, "expires", read.Leaf.NotAfter)
}
