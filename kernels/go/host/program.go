package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// Of what a program that fails says at last.
	keptWords  = 256 * 1024
	mostFrames = 30
	// That one program may leave behind; more than that end with the host.
	mostOrphans = 10000
	grace       = 200 * time.Millisecond
	look        = 30 * time.Millisecond
	// prctl(PR_SET_CHILD_SUBREAPER)
	childSubreaper = 36
)

// process is a cell's program while it runs.
type process struct {
	command *exec.Cmd
	ended   chan struct{}
	once    sync.Once
}

// interrupt ends the program and what it has started: by SIGINT, then for certain.
func (p *process) interrupt() {
	p.once.Do(func() {
		group := -p.command.Process.Pid
		// It may have ended just now.
		_ = syscall.Kill(group, syscall.SIGINT)
		go func() {
			select {
			case <-p.ended:
			case <-time.After(grace):
				_ = syscall.Kill(group, syscall.SIGKILL)
			}
		}()
	})
}

// becomeSubreaper has what programs leave behind come to us, and not to the system's first process.
func becomeSubreaper() {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_PRCTL, childSubreaper, 1, 0, 0, 0, 0)
}

func (h *host) execute(ctx context.Context, r request, path, cwd string, env []string) outcome {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("HostError", err.Error())
	}
	near, far := os.NewFile(uintptr(pair[0]), "near"), os.NewFile(uintptr(pair[1]), "far")
	defer near.Close()
	// A second close does nothing: each is closed earlier where all goes well.
	defer far.Close()
	said, saying, err := os.Pipe()
	if err != nil {
		return failed("HostError", err.Error())
	}
	defer said.Close()
	defer saying.Close()
	command := exec.Command(path)
	command.Dir = cwd
	command.Env = append(env, "PWD="+cwd)
	command.Stdout = os.Stdout
	command.Stderr = saying
	command.ExtraFiles = []*os.File{far}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var typed *os.File
	if r.AllowStdin {
		input, write, err := os.Pipe()
		if err != nil {
			return failed("HostError", err.Error())
		}
		typed = write
		command.Stdin = input
		defer input.Close()
		defer typed.Close()
	}
	err = command.Start()
	far.Close()
	saying.Close()
	if err != nil {
		return failed("HostError", err.Error())
	}
	p := &process{command: command, ended: make(chan struct{})}
	h.lock.Lock()
	h.program = p
	// An interrupt that came while there was no program has only ended the context.
	late := ctx.Err() != nil
	h.lock.Unlock()
	if late {
		p.interrupt()
	}
	var pending sync.WaitGroup
	pending.Add(1)
	go func() { defer pending.Done(); h.converse(near, p) }()
	words := make(chan []byte, 1)
	go func() { words <- forward(said) }()
	if typed != nil {
		go h.watchInput(p, typed)
	}
	err = command.Wait()
	close(p.ended)
	// What it has left behind in its group ends with it.
	_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
	// Its end of the socket is closed now, unless a child in a group of its own has kept it.
	_ = near.SetReadDeadline(time.Now().Add(grace))
	pending.Wait()
	_ = said.SetReadDeadline(time.Now().Add(grace))
	last := <-words
	h.lock.Lock()
	h.program = nil
	h.lock.Unlock()
	endOrphans()
	return h.ending(command.ProcessState, last, r.Count)
}

// endOrphans ends what programs have left behind, in groups of their own too, and takes leave of it.
func endOrphans() {
	for range mostOrphans {
		lists, err := filepath.Glob("/proc/self/task/*/children")
		if err != nil {
			return
		}
		for _, list := range lists {
			text, err := os.ReadFile(list)
			if err != nil {
				continue
			}
			for _, word := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(word); err == nil {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if pid <= 0 || err != nil && err != syscall.EINTR {
			return
		}
	}
}

// forward passes on what a program says, and keeps from the first word of a panic on.
func forward(from io.Reader) []byte {
	var held []byte
	holding := false
	buffer := make([]byte, 32*1024)
	begins := true
	for {
		n, err := from.Read(buffer)
		data := buffer[:n]
		if !holding {
			at := panicAt(data, begins)
			if at < 0 {
				// Nobody to tell if the driver is gone.
				_, _ = os.Stderr.Write(data)
			} else {
				_, _ = os.Stderr.Write(data[:at])
				data = data[at:]
				holding = true
			}
			if n > 0 {
				begins = buffer[n-1] == '\n'
			}
		}
		if holding && len(held) < keptWords {
			held = append(held, data...)
		}
		if err != nil {
			return held
		}
	}
}

func panicAt(data []byte, begins bool) int {
	for _, word := range []string{"panic: ", "fatal error: "} {
		if begins && bytes.HasPrefix(data, []byte(word)) {
			return 0
		}
		if at := bytes.Index(data, []byte("\n"+word)); at >= 0 {
			return at + 1
		}
	}
	return -1
}

var frame = regexp.MustCompile(`^\t(.*?)(Cell In\[(?:\*|\d+)\](?:\.go)?:\d+)`)

// ending reads a program's end: its status, or the panic that it died of.
func (h *host) ending(state *os.ProcessState, last []byte, count int) outcome {
	status := state.Sys().(syscall.WaitStatus)
	text := string(last)
	if !status.Exited() {
		name := status.Signal()
		_, _ = os.Stderr.Write(last)
		return outcome{
			failure:  &failure{"ProgramKilled", fmt.Sprintf("the program was killed by signal %d (%s)", int(name), name), []string{}},
			exitCode: 128 + int(name),
		}
	}
	code := status.ExitStatus()
	if code != 2 || text == "" {
		_, _ = os.Stderr.Write(last)
		return outcome{exitCode: code}
	}
	head, rest, _ := strings.Cut(text, "\n\ngoroutine ")
	kind, value, _ := strings.Cut(head, ": ")
	name := "panic"
	if kind == "fatal error" {
		name = "FatalError"
	} else if strings.HasPrefix(value, "runtime error: ") {
		name = "RuntimeError"
		value = strings.TrimPrefix(value, "runtime error: ")
	}
	value, _, _ = strings.Cut(value, "\n")
	trace := strings.Split(h.told(head, count), "\n")
	lines := strings.Split(rest, "\n")
	frames := 0
	for i, line := range lines {
		found := frame.FindStringSubmatch(line)
		if found == nil || i == 0 || frames == mostFrames {
			continue
		}
		frames++
		function, _, _ := strings.Cut(lines[i-1], "(")
		where := strings.Replace(h.told(found[2], count), "].go:", "]:", 1)
		trace = append(trace, fmt.Sprintf("    %s in %s", where, strings.TrimPrefix(function, "main.")))
	}
	return outcome{failure: &failure{name, value, trace}, exitCode: code}
}

// converse passes on what a program shows and asks for.
func (h *host) converse(socket *os.File, p *process) {
	reader := bufio.NewReaderSize(socket, 64*1024)
	for {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			return
		}
		var content map[string]any
		if json.Unmarshal(line, &content) != nil {
			continue
		}
		answer := "+\n"
		switch content["op"] {
		case "display", "clear":
			h.show(content, p)
		case "result":
			h.show(message{"op": "result", "data": message{"text/plain": content["text"]}}, p)
		case "ask":
			h.out.send(content)
			if line := h.wait(p); line != nil {
				answer = "+" + *line + "\n"
			} else {
				answer = "-\n"
			}
		}
		if _, err := io.WriteString(socket, answer); err != nil {
			return
		}
	}
}

// show waits until the driver has handled what is shown, so that what is printed next comes next.
func (h *host) show(content message, p *process) {
	select {
	case <-h.acks:
	default:
	}
	h.out.send(content)
	select {
	case <-h.acks:
	case <-time.After(5 * time.Second):
	}
}

// wait is the line that somebody has answered; nil if nobody can, or the program has ended.
func (h *host) wait(p *process) *string {
	select {
	case line := <-h.answers:
		return line
	case <-p.ended:
		return nil
	}
}

// watchInput asks for a line whenever the program waits for one.
func (h *host) watchInput(p *process, typed *os.File) {
	defer typed.Close()
	for {
		select {
		case <-p.ended:
			return
		case <-time.After(look):
		}
		if !waitsForLine(p.command.Process.Pid) {
			continue
		}
		h.out.send(message{"op": "ask", "prompt": "", "password": false})
		line := h.wait(p)
		if line == nil {
			return
		}
		if _, err := io.WriteString(typed, *line+"\n"); err != nil {
			return
		}
	}
}

// waitsForLine tells whether a thread of a process is blocked in a read of its standard input.
func waitsForLine(pid int) bool {
	calls, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil {
		return false
	}
	for _, call := range calls {
		data, err := os.ReadFile(call)
		if err == nil && strings.HasPrefix(string(data), fmt.Sprintf("%d 0x0 ", syscall.SYS_READ)) {
			return true
		}
	}
	return false
}
