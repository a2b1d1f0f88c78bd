package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// counted is a stream that shows how much of it has been read.
type counted struct {
	io.Reader
	bar     *progress
	n       int64
	total   int64 // negative if it is not known
	started time.Time
	shown   time.Time
}

func newCounted(r io.Reader, bar *progress, total int64) *counted {
	return &counted{Reader: r, bar: bar, total: total, started: bar.now()}
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	now := c.bar.now()
	if took := now.Sub(c.started).Seconds(); took > 0 && now.Sub(c.shown) > lookEvery/5 {
		c.shown = now
		rate, total := int64(float64(c.n)/took), max(c.total, c.n)
		var left *int64
		if rate > 0 && c.total > 0 {
			s := (total - c.n) / rate
			left = &s
		}
		c.bar.set(c.n, total, rate, left)
	}
	return n, err
}

// writeFile writes a file, which appears under its name once it is whole.
func writeFile(name string, r io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(name+".partial", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644) //nolint:gosec // for other programs and users
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// writeLayout unpacks a bundle into a directory that is empty or not there yet. What
// broke off has no index.json, so that no program takes it for a layout.
func writeLayout(dir string, r io.Reader) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		return errors.Join(err, errors.New("this directory is not empty"))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	const index = "index.json"
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF { //nolint:errorlint // the end itself; what wraps it is a failure
			return root.Rename(index+".partial", index)
		}
		if err == nil {
			name := h.Name
			if name == index {
				name += ".partial"
			}
			err = unpack(root, name, t)
		}
		if err != nil {
			return err
		}
	}
}

func unpack(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o750); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// openLayout opens what is imported: standard input, a file, or a directory as a
// tar. size is its bytes, -1 if that is not known.
func (p *program) openLayout(name string) (content io.ReadCloser, size int64, err error) {
	if name == "-" {
		return io.NopCloser(p.Stdin), -1, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil || !info.IsDir() {
		return f, info.Size(), err
	}
	_ = f.Close()
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, 0, err
	}
	total := int64(0)
	err = eachFile(root, func(_ string, info fs.FileInfo) error { total += info.Size(); return nil })
	if err != nil {
		_ = root.Close()
		return nil, 0, err
	}
	r, w := io.Pipe()
	go func() {
		defer root.Close()
		_ = w.CloseWithError(packLayout(root, w)) // the reader has the error
	}()
	return r, total, nil
}

// eachFile calls do with the files of a layout, in the order of their names.
func eachFile(root *os.Root, do func(name string, info fs.FileInfo) error) error {
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if name != "oci-layout" && name != "index.json" && !strings.HasPrefix(name, "blobs/") {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return do(name, info)
	})
}

func packLayout(root *os.Root, w io.Writer) error {
	t := tar.NewWriter(w)
	err := eachFile(root, func(name string, info fs.FileInfo) error {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o644}); err != nil {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.CopyN(t, f, info.Size()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.Close()
}
