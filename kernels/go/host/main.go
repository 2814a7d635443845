// Command host runs Go cells for the kernel; json_driver.py tells its protocol.
//
//	host install DIRECTORY           makes the archives that cells are built with
//	host TOOLS REQUESTS MESSAGES     TOOLS is what install made; the others are descriptors
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "install" {
		if err := install(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: host install DIRECTORY | host TOOLS REQUESTS MESSAGES")
		os.Exit(2)
	}
	requests, messages := descriptor(os.Args[2]), descriptor(os.Args[3])
	if err := serve(os.Args[1], requests, messages); err != nil {
		fmt.Fprintln(os.Stderr, "the Go host cannot go on:", err)
		os.Exit(1)
	}
}

func descriptor(text string) *os.File {
	number, err := strconv.Atoi(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, "not a descriptor:", text)
		os.Exit(2)
	}
	syscall.CloseOnExec(number)
	return os.NewFile(uintptr(number), "pipe")
}

// serve answers requests until their pipe is closed.
func serve(tools string, requests, messages *os.File) error {
	becomeSubreaper()
	out := newMessages(messages)
	host, err := newHost(tools, out)
	if err != nil {
		return err
	}
	defer host.close()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT)
	go func() {
		for range interrupts {
			host.interrupt()
		}
	}()
	queue := make(chan request, 16)
	failed := make(chan error, 1)
	go func() { failed <- receive(requests, host, queue) }()
	out.send(message{"op": "ready"})
	for request := range queue {
		host.answer(request)
	}
	return <-failed
}

// receive passes requests on; what a running program waits for goes past the queue.
func receive(from io.Reader, host *host, queue chan<- request) error {
	defer close(queue)
	reader := bufio.NewReaderSize(from, 64*1024)
	for {
		line, err := reader.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var next request
		if err := json.Unmarshal(line, &next); err != nil {
			return fmt.Errorf("a request is no JSON: %w", err)
		}
		switch next.Op {
		case "input":
			host.input(next.Line)
		case "shown":
			host.shown()
		default:
			queue <- next
		}
	}
}
