package upstream

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"
)

// lookEvery is how often a file of certificates is looked at, at most, and only
// when a registry is asked.
const lookEvery = time.Second

// CAFile is a file of PEM certificates of authorities. It is read again when it
// changes; one that cannot be used leaves the certificates before in place. It
// may be shared by any number of registries.
type CAFile struct {
	path string

	mu      sync.Mutex
	pem     []byte
	version int         // how often pem has changed
	seen    fs.FileInfo // of the file when it was last read, whatever came of it; nil when it was not there
	looked  time.Time
}

var errNoCertificate = errors.New("there is none in it")

// ReadCAFile reads a file for the first time. The error says what is wrong with
// it, without its name.
func ReadCAFile(path string) (*CAFile, error) {
	f := &CAFile{path: path}
	f.seen, _ = os.Stat(path)
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// Path is the file's name.
func (f *CAFile) Path() string { return f.path }

func (f *CAFile) read() error {
	pem, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("it cannot be read: %w", errors.Unwrap(err))
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errNoCertificate
	}
	f.pem = pem
	return nil
}

// current returns the certificates and their version.
func (f *CAFile) current(now time.Time, log *slog.Logger) (pem []byte, version int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.looked) >= lookEvery {
		f.looked = now
		f.reload(log)
	}
	return f.pem, f.version
}

// reload reads a file that has changed. f.mu is held.
func (f *CAFile) reload(log *slog.Logger) {
	info, _ := os.Stat(f.path) // an error has no information, and reading has it too
	if info == nil && f.seen == nil || info != nil && f.seen != nil && os.SameFile(info, f.seen) &&
		info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return
	}
	f.seen = info
	if err := f.read(); err != nil {
		log.Warn("a changed file of authorities' certificates cannot be used; those read before stay trusted", "file", f.path, "err", err)
		return
	}
	f.version++
	log.Info("a changed file of authorities' certificates is trusted from now on", "file", f.path)
}

// authorities are those that may vouch for a registry: the system's and those of
// files.
type authorities struct {
	files []*CAFile
	now   func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	versions int // of all files together, when pool was made
	pool     *x509.CertPool
}

func (o Options) authorities() *authorities {
	return &authorities{files: o.CAFiles, now: o.Now, log: o.Log}
}

// current returns the certificates in one pool, the same one until a file
// changes; nil for the system's alone.
func (a *authorities) current() *x509.CertPool {
	if len(a.files) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := 0
	pems := make([][]byte, len(a.files))
	for i, f := range a.files {
		var version int
		pems[i], version = f.current(a.now(), a.log)
		sum += version
	}
	if a.pool == nil || sum != a.versions {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, pem := range pems {
			pool.AppendCertsFromPEM(pem)
		}
		a.pool, a.versions = pool, sum
	}
	return a.pool
}

// renewed is an http.Transport that another one takes the place of when the
// authorities change. Requests under way end on their connections; no other
// request gets one that was made on the word of the authorities before.
type renewed struct {
	authorities *authorities
	make        func(*x509.CertPool) *http.Transport

	mu      sync.Mutex
	pool    *x509.CertPool
	current *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (r *renewed) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.transport().RoundTrip(req)
}

// closeIdle closes the connections that no request is using.
func (r *renewed) closeIdle() { r.transport().CloseIdleConnections() }

func (r *renewed) transport() *http.Transport {
	pool := r.authorities.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil || pool != r.pool {
		if r.current != nil {
			defer r.current.CloseIdleConnections() // and those that become idle
		}
		r.pool, r.current = pool, r.make(pool)
	}
	return r.current
}
