package fill

// hashAll hashes the contiguous bytes from 0 and compares the digest at the end.
// It reads the file, not the stream, so that several writers may fetch the bytes
// in any order, and one processor hashes while another receives. If the fill
// fails, it ends after the bytes that were contiguous then.
func (f *Fill) hashAll() error {
	buf := Buffers.Get().(*[BufferSize]byte)
	defer Buffers.Put(buf)
	var hashed int64
	for {
		end, size, over := f.frontier(hashed)
		for hashed < end {
			n := min(end-hashed, BufferSize)
			if _, err := f.writer.ReadAt(buf[:n], hashed); err != nil {
				return diskError{err}
			}
			f.hash.Write(buf[:n])
			hashed += n
			f.mu.Lock()
			f.hashed = hashed
			f.mu.Unlock()
		}
		if hashed == size {
			return f.compareDigest()
		}
		if over {
			return nil
		}
	}
}

// frontier waits until bytes beyond from are contiguous, the size is reached,
// or the fill has failed. It returns the offset up to which they are, the size,
// and whether the fill fetches nothing more.
func (f *Fill) frontier(from int64) (end, size int64, over bool) {
	for {
		f.mu.Lock()
		end, size, over = f.have.endFrom(0), f.size, f.state.over()
		changed := f.changed
		f.mu.Unlock()
		if end > from || end == size || over {
			return end, size, over
		}
		<-changed
	}
}

// compareDigest compares the digest and, if it is right, lets readers read the
// tail.
func (f *Fill) compareDigest() error {
	right := HashesTo(f.hash, f.want.Digest)
	if !right {
		if err := f.writer.Sound(); err != nil { // then it is not the source that is wrong
			return diskError{err}
		}
		f.fills.NoteWrong(f.want.Digest) // before a reader is cut and its client tries again
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err != nil:
		return f.err
	case !right:
		return ErrWrongContent
	}
	f.verified = true
	f.move(stateCommitting)
	f.broadcast()
	return nil
}
