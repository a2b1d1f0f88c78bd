package crash

import (
	"context"
	"hubcap/e2e/testkit"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// faultFS is a directory seen through a file system that fails on command. Only hubcap may look at dir: the test itself serves it, and
// would wait for itself. What lies there is seen in backing.
type faultFS struct {
	dir, backing string
	fault        atomic.Pointer[fault]
}

// operation is what a program asks of a file.
type operation string

const (
	reading    operation = "read"
	writing    operation = "write"
	allocating operation = "allocate"
	syncing    operation = "fsync"
)

// fault fails an operation on the files below a directory: all of them, or those that go beyond an offset.
type fault struct {
	operation operation
	below     string // path from the root, with a slash at its end
	beyond    int64  // bytes; for reads and writes
	errno     syscall.Errno
	met       atomic.Int64
}

func newFaultFS(t *testing.T) *faultFS {
	t.Helper()
	needRoot(t)
	f := &faultFS{dir: t.TempDir(), backing: t.TempDir()}
	root, err := fs.NewLoopbackRoot(f.backing)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(f.dir, unix.MNT_DETACH) })
	if _, err := os.Stat("/dev/fuse"); err != nil {
		testkit.Unable(t, "%v", err)
	}
	// DirectMount needs no program, but root.
	options := &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faults", Name: "faults"}}
	if _, err := fs.Mount(f.dir, &faultNode{root.(*fs.LoopbackNode), f}, options); err != nil {
		testkit.Unable(t, "FUSE: %v", err)
	}
	return f
}

// inject has the file system fail from now on; nil mends it.
func (f *faultFS) inject(one *fault) { f.fault.Store(one) }

// fails tells how an operation is to fail, 0 if it is not.
func (f *faultFS) fails(op operation, path string, end int64) syscall.Errno {
	one := f.fault.Load()
	if one == nil || op != one.operation || !strings.HasPrefix(path, one.below) || end < one.beyond {
		return 0
	}
	one.met.Add(1)
	return one.errno
}

// faultNode is a file or a directory.
type faultNode struct {
	*fs.LoopbackNode
	fs *faultFS
}

func (n *faultNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &faultNode{ops.(*fs.LoopbackNode), n.fs}
}

func (n *faultNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	handle, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	path := n.Path(nil)
	return n.wrap(handle, path), fuseFlags | uncached(path), errno
}

func (n *faultNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	child, handle, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	path := n.Path(nil) + "/" + name
	return child, n.wrap(handle, path), fuseFlags | uncached(path), errno
}

// uncached keeps the kernel from remembering blobs, so that each read and write is ours to fail. The index is mapped into memory, which
// needs what the kernel remembers.
func uncached(path string) uint32 {
	if strings.HasPrefix(path, "index/") {
		return 0
	}
	return fuse.FOPEN_DIRECT_IO
}

func (n *faultNode) wrap(handle fs.FileHandle, path string) fs.FileHandle {
	if file, ok := handle.(*fs.LoopbackFile); ok {
		return &faultFile{file, n.fs, path}
	}
	return handle
}

// faultFile is an open file, under the name that it was opened by.
type faultFile struct {
	*fs.LoopbackFile
	fs   *faultFS
	path string
}

// PassthroughFd keeps the kernel from going to the backing file by itself.
func (f *faultFile) PassthroughFd() (int, bool) { return 0, false }

func (f *faultFile) Read(ctx context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := f.fs.fails(reading, f.path, off+int64(len(p))); errno != 0 {
		return nil, errno
	}
	return f.LoopbackFile.Read(ctx, p, off)
}

func (f *faultFile) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.fs.fails(writing, f.path, off+int64(len(p))); errno != 0 {
		return 0, errno
	}
	return f.LoopbackFile.Write(ctx, p, off)
}

func (f *faultFile) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if errno := f.fs.fails(allocating, f.path, 0); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Allocate(ctx, off, size, mode)
}

func (f *faultFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := f.fs.fails(syncing, f.path, 0); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}
