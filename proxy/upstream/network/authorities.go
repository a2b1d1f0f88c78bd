package network

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how often a file of certificates is checked for changes, while
// registries are asked.
const lookEvery = time.Second

// CAFile is a file of PEM certificates of authorities. It is read again when it
// changes; if that fails, the previous certificates stay. Several registries may
// share it.
type CAFile struct {
	path string

	mu      sync.Mutex
	pem     []byte
	version int         // counts the changes of pem
	seen    fs.FileInfo // of the file when it was last read, successfully or not; nil when it was not there
	looked  time.Time
}

var errNoCertificate = errors.New("it holds no certificate")

// ReadCAFile reads a file for the first time. The error does not name it.
func ReadCAFile(path string) (*CAFile, error) {
	f := &CAFile{path: path}
	f.seen, _ = os.Stat(path)
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// Path returns the file's name.
func (f *CAFile) Path() string { return f.path }

// AddTo adds the certificates, as they are in the file now, to a pool.
func (f *CAFile) AddTo(pool *x509.CertPool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	pool.AppendCertsFromPEM(f.pem)
	return nil
}

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

// reload reads the file if it has changed. f.mu is held.
func (f *CAFile) reload(log *slog.Logger) {
	info, _ := os.Stat(f.path) // reading reports the error
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

// RootCAs returns the certificate authorities that are trusted, the system's and
// those of CAFiles, as one pool, the same until a file changes; nil for the
// system's alone.
func (n *Network) RootCAs() *x509.CertPool {
	if len(n.CAFiles) == 0 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	sum := 0
	pems := make([][]byte, len(n.CAFiles))
	for i, f := range n.CAFiles {
		var version int
		pems[i], version = f.current(n.Now(), n.Log)
		sum += version
	}
	if n.roots != nil && sum == n.version {
		return n.roots
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	for _, pem := range pems {
		roots.AppendCertsFromPEM(pem)
	}
	n.version, n.roots = sum, roots
	return roots
}
